# Keeps what a bugcheck leaves: a dump in the page file, a minidump, and a stopped machine for the host to look at.
# Microsoft Learn, "Configure system failure and recovery options in Windows" has the values of CrashControl.

[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [psobject] $Data
)

$kinds = @{ complete = 1; kernel = 2; small = 3 }
$control = 'HKLM:\SYSTEM\CurrentControlSet\Control\CrashControl'
Set-RegistryValue -Key $control -Name 'CrashDumpEnabled' -Value $kinds[[string] $Data.crash_dump]
Set-RegistryValue -Key $control -Name 'AutoReboot' -Value 0
Set-RegistryValue -Key $control -Name 'Overwrite' -Value 1
Set-RegistryValue -Key $control -Name 'AlwaysKeepMemoryDump' -Value 1
Set-RegistryValue -Key $control -Name 'MinidumpsCount' -Value 50
# A hung guest is dumped by an NMI from the host.
Set-RegistryValue -Key $control -Name 'NMICrashDump' -Value 1

# Not by Win32_PageFileSetting: it takes no more than an eighth of the disk.
$memory = 'HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management'
$pageFile = 'C:\pagefile.sys {0} {0}' -f $Data.page_file_mib
Set-RegistryValue -Key $memory -Name 'PagingFiles' -Value $pageFile -Type MultiString

# After crashes on purpose Windows would start its repair instead of itself.
Invoke-Program -Name 'bcdedit.exe' -Arguments '/set', '{current}', 'recoveryenabled', 'no' | Out-Null
Invoke-Program -Name 'bcdedit.exe' -Arguments '/set', '{current}', 'bootstatuspolicy', 'ignoreallfailures' | Out-Null
# A program that dies as a test wants it to must not wait behind a window.
Set-RegistryValue -Key 'HKLM:\SOFTWARE\Microsoft\Windows\Windows Error Reporting' -Name 'DontShowUI' -Value 1

$verifier = Join-Path -Path $env:SystemRoot -ChildPath 'System32\verifier.exe'
if (-not (Test-Path -LiteralPath $verifier)) {
    throw 'Driver Verifier (verifier.exe) is missing from this Windows'
}

@{
    crash_dump = [string] $Data.crash_dump
}
