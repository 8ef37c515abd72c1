# PowerShell Remoting over HTTPS only, with a certificate whose key is made here and never leaves the guest.

[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [psobject] $Data
)

# Windows refuses settings of remoting while a network counts as public. One that is still being identified does, and
# takes no other category until it is.
Wait-Until -What 'the guest has a network and it counts as private' -Condition {
    Get-NetConnectionProfile |
        Where-Object -FilterScript { $_.NetworkCategory -eq 'Public' } |
        Set-NetConnectionProfile -NetworkCategory Private -ErrorAction SilentlyContinue
    $categories = @(Get-NetConnectionProfile | ForEach-Object -Process { $_.NetworkCategory })
    $categories.Count -gt 0 -and $categories -notcontains 'Public'
}
Enable-PSRemoting -Force -SkipNetworkProfileCheck | Out-Null

$names = @($Data.certificate.subject, 'localhost')
$now = Get-Date
$request = @{
    Subject = 'CN=' + $Data.certificate.subject
    DnsName = $names
    CertStoreLocation = 'Cert:\LocalMachine\My'
    Type = 'SSLServerAuthentication'
    KeyAlgorithm = 'RSA'
    KeyLength = [int] $Data.certificate.key_bits
    HashAlgorithm = 'SHA256'
    KeyExportPolicy = 'NonExportable'
    # A day of slack, because a reverted guest's clock may be behind.
    NotBefore = $now.AddDays(-1)
    NotAfter = $now.AddDays([int] $Data.certificate.days)
}
$certificate = New-SelfSignedCertificate @request

Get-ChildItem -Path 'WSMan:\localhost\Listener' | Remove-Item -Recurse -Force
$listener = @{
    Path = 'WSMan:\localhost\Listener'
    Transport = 'HTTPS'
    Address = '*'
    CertificateThumbPrint = $certificate.Thumbprint
    Force = $true
}
New-Item @listener | Out-Null

Set-Item -Path 'WSMan:\localhost\Service\AllowUnencrypted' -Value $false -Force
Set-Item -Path 'WSMan:\localhost\Service\Auth\Basic' -Value $false -Force
Set-Item -Path 'WSMan:\localhost\MaxEnvelopeSizekb' -Value 8192 -Force
Set-Item -Path 'WSMan:\localhost\Shell\MaxMemoryPerShellMB' -Value 2048 -Force
Set-Item -Path 'WSMan:\localhost\Shell\MaxShellsPerUser' -Value 100 -Force
# Enable-PSRemoting leaves a start that Windows delays by two minutes, which Set-Service does not take back.
Invoke-Program -Name 'sc.exe' -Arguments 'config', 'WinRM', 'start=', 'auto' | Out-Null

# Without this a local administrator has no administrator's rights over the network (Microsoft Learn, "User Account
# Control and remote restrictions").
$policies = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System'
Set-RegistryValue -Key $policies -Name 'LocalAccountTokenFilterPolicy' -Value 1

# Remote Management Users, by its identifier, because its name is translated.
Add-LocalGroupMember -SID 'S-1-5-32-580' -Member $Data.standard_user

@{
    certificate = [System.Convert]::ToBase64String($certificate.RawData)
    certificate_sha256 = Get-Sha256 -Bytes $certificate.RawData
}
