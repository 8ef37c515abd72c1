// Drives Ntproof.Agent with programs of the host, and prints what it sees; a test compares the lines.
using System;
using Ntproof;

internal static class AgentCheck
{
    private static void Main()
    {
        Console.OutputEncoding = new System.Text.UTF8Encoding(false);
        Agent echo = new Agent();
        Console.WriteLine("start " + echo.Start("/bin/cat", null).Error);
        for (int number = 0; number < 5; number++)
        {
            echo.SendLine("l\u00fc" + number);
        }
        long seen = Drain(echo, 0, 5);
        Console.WriteLine("stop " + echo.Stop(5000));
        Drain(echo, seen, 1);
        Console.WriteLine("send " + echo.SendLine("x").Error);

        Outcome absent = new Agent().Start("/no/such/program", null);
        Console.WriteLine("absent " + absent.Error + " " + absent.Call);

        Agent stubborn = new Agent();
        stubborn.Start("/bin/sleep", new[] { "100" });
        Console.WriteLine("killed " + (stubborn.Stop(200) == null));

        Agent failing = new Agent();
        failing.Start("/bin/sh", new[] { "-c", "echo $0; exit 7", "a b" });
        failing.CloseInput();
        Drain(failing, 0, 2);

        // What keeps its output open outlives it: the readers meet its end after it was disposed of, which must not end
        // this process.
        Agent brief = new Agent();
        brief.Start("/bin/sh", new[] { "-c", "sleep 0.2 &" });
        brief.Stop(5000);
        brief.Dispose();
        Agent longer = new Agent();
        longer.Start("/bin/sleep", new[] { "0.7" });
        longer.Stop(5000);
        Console.WriteLine("disposed");

        Console.WriteLine(Agent.Quote(new[] { "a b", "c\"d", "e\\", "f\\\\\"g", "" }));
    }

    // Prints lines after a number until there were as many as expected; the number of the last one.
    private static long Drain(Agent agent, long after, int expected)
    {
        int found = 0;
        while (found < expected)
        {
            foreach (Batch batch in agent.After(after, 5000))
            {
                foreach (string line in batch.Text.Split('\n'))
                {
                    Console.WriteLine(batch.Stream + " [" + line + "] " + batch.ExitCode);
                }
                after = batch.Last;
                found += batch.Count;
            }
        }
        return after;
    }
}
