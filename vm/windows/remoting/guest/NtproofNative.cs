// Win32 calls that PowerShell has no cmdlet for, and programs whose lines are kept until they are fetched.
// C# 5, which is what the compiler of the .NET Framework on every Windows understands. Nothing here throws for an answer
// of Windows: each method returns an Outcome with the Win32 error and the call that gave it.

using System;
using System.Collections.Generic;
using System.ComponentModel;
using System.Diagnostics;
using System.IO;
using System.Runtime.InteropServices;
using System.Text;
using System.Threading;

namespace Ntproof
{
    // What a call gave. Error is 0 for success.
    public sealed class Outcome
    {
        public string Call;
        public uint Error;
        public uint Value;

        public static Outcome Success()
        {
            return new Outcome { Call = "", Error = 0 };
        }

        public static Outcome Failure(string call)
        {
            return Failure(call, (uint)Marshal.GetLastWin32Error());
        }

        public static Outcome Failure(string call, uint error)
        {
            return new Outcome { Call = call, Error = error };
        }
    }

    // Files, code integrity, restart.
    public static class Machine
    {
        private const uint MOVEFILE_REPLACE_EXISTING = 1, MOVEFILE_WRITE_THROUGH = 8;
        private const int SystemCodeIntegrityInformation = 103;
        private const uint TOKEN_ADJUST_PRIVILEGES = 0x20, TOKEN_QUERY = 0x8, SE_PRIVILEGE_ENABLED = 2;
        private const uint ERROR_NOT_ALL_ASSIGNED = 1300, ERROR_PRIVILEGE_NOT_HELD = 1314;
        // SHTDN_REASON_MAJOR_APPLICATION | SHTDN_REASON_MINOR_MAINTENANCE | SHTDN_REASON_FLAG_PLANNED (reason.h)
        private const uint Reason = 0x00040000 | 0x00000001 | 0x80000000;

        [StructLayout(LayoutKind.Sequential)]
        private struct SYSTEM_CODEINTEGRITY_INFORMATION
        {
            public uint Length, CodeIntegrityOptions;
        }

        [StructLayout(LayoutKind.Sequential, Pack = 4)]
        private struct TOKEN_PRIVILEGES
        {
            public uint Count;
            public long Luid;
            public uint Attributes;
        }

        [DllImport("kernel32.dll", SetLastError = true, CharSet = CharSet.Unicode, ExactSpelling = true)]
        private static extern bool MoveFileExW(string source, string destination, uint flags);

        [DllImport("ntdll.dll", ExactSpelling = true)]
        private static extern int NtQuerySystemInformation(
            int kind, ref SYSTEM_CODEINTEGRITY_INFORMATION information, uint length, out uint returned);

        [DllImport("ntdll.dll", ExactSpelling = true)]
        private static extern uint RtlNtStatusToDosError(int status);

        [DllImport("kernel32.dll", ExactSpelling = true)]
        private static extern IntPtr GetCurrentProcess();

        [DllImport("kernel32.dll", ExactSpelling = true)]
        private static extern bool CloseHandle(IntPtr handle);

        [DllImport("advapi32.dll", SetLastError = true, ExactSpelling = true)]
        private static extern bool OpenProcessToken(IntPtr process, uint access, out IntPtr token);

        [DllImport("advapi32.dll", SetLastError = true, CharSet = CharSet.Unicode, ExactSpelling = true)]
        private static extern bool LookupPrivilegeValueW(string system, string name, out long luid);

        [DllImport("advapi32.dll", SetLastError = true, ExactSpelling = true)]
        private static extern bool AdjustTokenPrivileges(
            IntPtr token, bool disableAll, ref TOKEN_PRIVILEGES state, uint length, IntPtr previous, IntPtr returned);

        [DllImport("advapi32.dll", SetLastError = true, CharSet = CharSet.Unicode, ExactSpelling = true)]
        private static extern bool InitiateSystemShutdownExW(
            string machine, string message, uint seconds, bool forceApplications, bool restart, uint reason);

        public static Outcome Move(string source, string destination)
        {
            uint flags = MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH;
            return MoveFileExW(source, destination, flags) ? Outcome.Success() : Outcome.Failure("MoveFileExW");
        }

        // Microsoft's page of NtQuerySystemInformation documents the class, the structure and its options.
        public static Outcome CodeIntegrity()
        {
            SYSTEM_CODEINTEGRITY_INFORMATION information = new SYSTEM_CODEINTEGRITY_INFORMATION();
            information.Length = (uint)Marshal.SizeOf(typeof(SYSTEM_CODEINTEGRITY_INFORMATION));
            uint returned;
            int status = NtQuerySystemInformation(
                SystemCodeIntegrityInformation, ref information, information.Length, out returned);
            if (status < 0)
            {
                return Outcome.Failure("NtQuerySystemInformation", RtlNtStatusToDosError(status));
            }
            Outcome found = Outcome.Success();
            found.Value = information.CodeIntegrityOptions;
            return found;
        }

        public static Outcome Restart(uint seconds)
        {
            IntPtr token;
            if (!OpenProcessToken(GetCurrentProcess(), TOKEN_ADJUST_PRIVILEGES | TOKEN_QUERY, out token))
            {
                return Outcome.Failure("OpenProcessToken");
            }
            try
            {
                TOKEN_PRIVILEGES wanted = new TOKEN_PRIVILEGES { Count = 1, Attributes = SE_PRIVILEGE_ENABLED };
                if (!LookupPrivilegeValueW(null, "SeShutdownPrivilege", out wanted.Luid))
                {
                    return Outcome.Failure("LookupPrivilegeValueW");
                }
                if (!AdjustTokenPrivileges(token, false, ref wanted, 0, IntPtr.Zero, IntPtr.Zero))
                {
                    return Outcome.Failure("AdjustTokenPrivileges");
                }
                if (Marshal.GetLastWin32Error() == ERROR_NOT_ALL_ASSIGNED)
                {
                    return Outcome.Failure("AdjustTokenPrivileges", ERROR_PRIVILEGE_NOT_HELD);
                }
                return InitiateSystemShutdownExW(null, null, seconds, true, true, Reason)
                    ? Outcome.Success()
                    : Outcome.Failure("InitiateSystemShutdownExW");
            }
            finally
            {
                CloseHandle(token);
            }
        }
    }

    // One line of a program, or its end.
    internal sealed class Line
    {
        public long Sequence;
        public string Stream;
        public string Text;
        public uint? ExitCode;
    }

    // Consecutive lines of one stream, joined by line feeds; or a program's end, alone.
    public sealed class Batch
    {
        public long Sequence;
        public int Count;
        public string Stream;
        public string Text;
        public uint ProcessId;
        public uint? ExitCode;

        public long Last
        {
            get { return Sequence + Count - 1; }
        }
    }

    // A program whose lines are numbered and kept until somebody asks for those after them. What a program may be given
    // is its input; arguments are quoted by the rules of CommandLineToArgvW.
    public sealed class Agent : IDisposable
    {
        private const uint ERROR_BROKEN_PIPE = 109;
        private const int MostCharacters = 256 * 1024;
        private static readonly Encoding Utf8 = new UTF8Encoding(false);

        private readonly object gate = new object();
        private readonly LinkedList<Line> lines = new LinkedList<Line>();
        private readonly Process process = new Process();
        private int readers = 2;
        private long sequence;
        private uint? exitCode;

        public Outcome Start(string path, string[] arguments)
        {
            process.StartInfo = new ProcessStartInfo(path, Quote(arguments))
            {
                UseShellExecute = false,
                CreateNoWindow = true,
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
                StandardOutputEncoding = Utf8,
                StandardErrorEncoding = Utf8,
            };
            try
            {
                process.Start();
            }
            catch (Win32Exception error)
            {
                return Outcome.Failure("CreateProcessW", (uint)error.NativeErrorCode);
            }
            Read(process.StandardOutput, "out");
            Read(process.StandardError, "err");
            return Outcome.Success();
        }

        public uint Id
        {
            get { return (uint)process.Id; }
        }

        public Outcome Send(byte[] data)
        {
            try
            {
                Stream input = process.StandardInput.BaseStream;
                if (input == null)
                {
                    return Outcome.Failure("WriteFile", ERROR_BROKEN_PIPE);
                }
                input.Write(data, 0, data.Length);
                input.Flush();
                return Outcome.Success();
            }
            catch (IOException)
            {
                return Outcome.Failure("WriteFile", ERROR_BROKEN_PIPE);
            }
            catch (ObjectDisposedException)
            {
                return Outcome.Failure("WriteFile", ERROR_BROKEN_PIPE);
            }
        }

        public Outcome SendLine(string line)
        {
            return Send(Utf8.GetBytes(line + "\n"));
        }

        public void CloseInput()
        {
            try
            {
                process.StandardInput.Close();
            }
            catch (IOException)
            {
                // It ended before it read everything; its exit code says so.
            }
        }

        // The lines after a number, waiting for the first of them. Those up to the number are forgotten.
        public Batch[] After(long number, int milliseconds)
        {
            // The clock of a guest whose memory was restored jumps.
            Stopwatch waited = Stopwatch.StartNew();
            lock (gate)
            {
                while (lines.Count > 0 && lines.First.Value.Sequence <= number)
                {
                    lines.RemoveFirst();
                }
                while (lines.Count == 0 && exitCode == null)
                {
                    long left = milliseconds - waited.ElapsedMilliseconds;
                    if (left <= 0)
                    {
                        break;
                    }
                    Monitor.Wait(gate, (int)left);
                }
                return Batches();
            }
        }

        private Batch[] Batches()
        {
            List<Batch> found = new List<Batch>();
            StringBuilder text = new StringBuilder();
            Batch current = null;
            foreach (Line line in lines)
            {
                if (current == null || current.Stream != line.Stream || text.Length > MostCharacters)
                {
                    Finish(current, text);
                    current = new Batch { Sequence = line.Sequence, Stream = line.Stream, ProcessId = Id };
                    current.ExitCode = line.ExitCode;
                    found.Add(current);
                }
                else
                {
                    text.Append('\n');
                }
                text.Append(line.Text);
                current.Count++;
            }
            Finish(current, text);
            return found.ToArray();
        }

        private static void Finish(Batch batch, StringBuilder text)
        {
            if (batch != null)
            {
                batch.Text = text.ToString();
            }
            text.Length = 0;
        }

        // Closes the input, waits, and kills what is left. The exit code is null for a program that had to be killed.
        public uint? Stop(int milliseconds)
        {
            CloseInput();
            bool ended = process.WaitForExit(milliseconds);
            if (!ended)
            {
                Kill();
            }
            return ended ? (uint?)unchecked((uint)process.ExitCode) : null;
        }

        public void Kill()
        {
            try
            {
                process.Kill();
                process.WaitForExit(5000);
            }
            catch (InvalidOperationException)
            {
                // It has ended already.
            }
            catch (Win32Exception)
            {
                // It is ending.
            }
        }

        public void Dispose()
        {
            process.Dispose();
        }

        private void Read(StreamReader reader, string stream)
        {
            Thread thread = new Thread(delegate()
            {
                try
                {
                    string text;
                    while ((text = reader.ReadLine()) != null)
                    {
                        Add(new Line { Stream = stream, Text = text });
                    }
                }
                catch (IOException)
                {
                    // The pipe broke with the program.
                }
                catch (ObjectDisposedException)
                {
                    // Stopped while it was read.
                }
                if (Interlocked.Decrement(ref readers) == 0)
                {
                    AddEnd();
                }
            });
            thread.IsBackground = true;
            thread.Start();
        }

        // An exception that leaves a thread ends the process that runs it, and with it the whole session.
        private void AddEnd()
        {
            try
            {
                process.WaitForExit();
                Add(new Line { Stream = "exit", ExitCode = unchecked((uint)process.ExitCode) });
            }
            catch (InvalidOperationException)
            {
                // It was disposed of: nobody asks for its end any more.
            }
        }

        private void Add(Line line)
        {
            lock (gate)
            {
                line.Sequence = ++sequence;
                exitCode = line.ExitCode;
                lines.AddLast(line);
                Monitor.PulseAll(gate);
            }
        }

        // The inverse of CommandLineToArgvW, as Microsoft documents it under "Parsing C command-line arguments".
        public static string Quote(string[] arguments)
        {
            StringBuilder line = new StringBuilder();
            foreach (string argument in arguments ?? new string[0])
            {
                if (line.Length > 0)
                {
                    line.Append(' ');
                }
                line.Append('"');
                int backslashes = 0;
                foreach (char letter in argument)
                {
                    if (letter == '\\')
                    {
                        backslashes++;
                        continue;
                    }
                    line.Append('\\', letter == '"' ? backslashes * 2 + 1 : backslashes).Append(letter);
                    backslashes = 0;
                }
                line.Append('\\', backslashes * 2).Append('"');
            }
            return line.ToString();
        }
    }
}
