# Records every process in the security log, as a witness beside the driver: events 4688 and 4689.
# Microsoft Learn, "Audit Process Creation", "Audit Process Termination", "Command line process auditing".

[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)]
    [psobject] $Data
)

if ($Data.process_audit) {
    # Subcategories go by their identifiers, because their names are translated.
    $subcategories = '{0CCE922B-69AE-11D9-BED3-505054503030}', '{0CCE922C-69AE-11D9-BED3-505054503030}'
    foreach ($subcategory in $subcategories) {
        Invoke-Program -Name 'auditpol.exe' -Arguments '/set', ('/subcategory:' + $subcategory), '/success:enable' |
            Out-Null
    }
    Set-RegistryValue -Key 'HKLM:\SYSTEM\CurrentControlSet\Control\Lsa' -Name 'SCENoApplyLegacyAuditPolicy' -Value 1
    $audit = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System\Audit'
    Set-RegistryValue -Key $audit -Name 'ProcessCreationIncludeCmdLine_Enabled' -Value 1
    # 256 MB: a run must not push its own first events out.
    Invoke-Program -Name 'wevtutil.exe' -Arguments 'set-log', 'Security', '/maxsize:268435456' | Out-Null
}
@{
    process_audit = [bool] $Data.process_audit
}
