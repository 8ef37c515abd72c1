# The OpenSSH server, with host keys that are made here.

[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [psobject] $Data
)

function Test-Server {
    $null -ne (Get-Service -Name 'sshd' -ErrorAction SilentlyContinue)
}

if (-not (Test-Server)) {
    if (-not $Data.openssh_package) {
        throw 'Windows did not bring the OpenSSH server; give its package to the build with --openssh'
    }
    $package = Join-Path -Path (Split-Path -Path $PSScriptRoot -Parent) -ChildPath $Data.openssh_package
    # 3010: done, a restart is due, which the end of the set-up is. PowerShell waits for this windowed program, because
    # its output is read.
    Invoke-Program -Name 'msiexec.exe' -Arguments '/i', $package, '/quiet', '/norestart' -Expected 0, 3010 | Out-Null
}
if (-not (Test-Server)) {
    throw 'there is no service sshd after the OpenSSH server was installed; give another package with --openssh'
}

Set-Service -Name 'sshd' -StartupType Automatic
Start-Service -Name 'sshd'
# The service counts as running before it makes its host keys; when it listens, it has read them.
Wait-Until -What 'the OpenSSH server listens on port 22' -Condition {
    $null -ne (Get-NetTCPConnection -State Listen -LocalPort 22 -ErrorAction SilentlyContinue)
}
$public = Join-Path -Path $env:ProgramData -ChildPath 'ssh\ssh_host_ed25519_key.pub'
$fields = (Get-Content -LiteralPath $public -Raw).Trim().Split(' ')

@{
    ssh_host_key = '{0} {1}' -f $fields[0], $fields[1]
}
