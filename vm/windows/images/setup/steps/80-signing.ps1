# Lets drivers load that a test certificate signed, and sets memory integrity as the profile says. Both take effect at
# the next boot.

[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [psobject] $Data
)

$state = 'HKLM:\SYSTEM\CurrentControlSet\Control\SecureBoot\State'
$secureBoot = [bool] (Get-RegistryValue -Key $state -Name 'UEFISecureBootEnabled')
if ($Data.test_signing) {
    if ($secureBoot) {
        throw 'Secure Boot is on, with which Windows refuses test signing; the virtual machine is not as its profile says'
    }
    Invoke-Program -Name 'bcdedit.exe' -Arguments '/set', '{current}', 'testsigning', 'on' | Out-Null
}

# Microsoft Learn, "Enable memory integrity": without UEFI lock, so that it can be turned off again.
$guard = 'HKLM:\SYSTEM\CurrentControlSet\Control\DeviceGuard'
$scenario = $guard + '\Scenarios\HypervisorEnforcedCodeIntegrity'
$enabled = [int] [bool] $Data.memory_integrity
Set-RegistryValue -Key $guard -Name 'EnableVirtualizationBasedSecurity' -Value $enabled
# 1 is Secure Boot, 0 nothing: where Secure Boot is asked for and off, Windows does not start its hypervisor at all
# (Microsoft Learn, "Register computer with Host Guardian Service", which lists the values).
Set-RegistryValue -Key $guard -Name 'RequirePlatformSecurityFeatures' -Value ([int] $secureBoot)
Set-RegistryValue -Key $guard -Name 'Locked' -Value 0
Set-RegistryValue -Key $scenario -Name 'Enabled' -Value $enabled
Set-RegistryValue -Key $scenario -Name 'Locked' -Value 0

@{
    secure_boot = $secureBoot
    test_signing = [bool] $Data.test_signing
    memory_integrity = [bool] $Data.memory_integrity
}
