# Checks that the right Windows was installed, and keeps it awake, its clock right and its accounts valid.

[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [psobject] $Data
)

$version = 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion'
$build = [int] (Get-RegistryValue -Key $version -Name 'CurrentBuildNumber')
if ($build -ne $Data.build) {
    throw ('Windows build {0} was installed, the profile says {1}' -f $build, $Data.build)
}

foreach ($setting in 'standby-timeout-ac', 'monitor-timeout-ac') {
    Invoke-Program -Name 'powercfg.exe' -Arguments '/change', $setting, '0' | Out-Null
}
# Fast startup would resume a hibernated kernel where a boot is expected. A guest without hibernation answers 1.
Invoke-Program -Name 'powercfg.exe' -Arguments '/hibernate', 'off' -Expected 0, 1 | Out-Null
Set-RegistryValue -Key 'HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager\Power' -Name 'HiberbootEnabled' -Value 0

# The machine's clock shows UTC; Windows takes what it shows for the time of its own zone otherwise.
$zone = 'HKLM:\SYSTEM\CurrentControlSet\Control\TimeZoneInformation'
Set-RegistryValue -Key $zone -Name 'RealTimeIsUniversal' -Value 1

foreach ($name in $Data.administrator, $Data.standard_user) {
    Set-LocalUser -Name $name -PasswordNeverExpires $true
}
if ($Data.disable_builtin_administrator) {
    # By its relative identifier, because its name is translated.
    Get-LocalUser | Where-Object -FilterScript { $_.SID.Value -like 'S-1-5-21-*-500' } | Disable-LocalUser
}

@{
    build = $build
    revision = [int] (Get-RegistryValue -Key $version -Name 'UBR')
    edition = [string] (Get-RegistryValue -Key $version -Name 'EditionID')
}
