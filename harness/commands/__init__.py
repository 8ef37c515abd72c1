"""The subcommands of ``ntproof``: each module here is one, by its name.

A module has a docstring, whose first line is its help, and two functions: ``configure(parser)`` declares the arguments,
``run(arguments)`` does the work and returns an `harness.exit_codes.ExitCode`. Errors with an owner (`harness.errors`,
`vm.errors`) may be raised: `harness.cli` words them and chooses the exit code.
"""
