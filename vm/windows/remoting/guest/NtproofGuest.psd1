@{
    RootModule        = 'NtproofGuest.psm1'
    ModuleVersion     = '1.0.0'
    GUID              = '5a0f6c1e-7a0e-4b52-9f27-0d2c7a1c64b3'
    Author            = 'The ntproof authors'
    Description       = 'Commands that ntproof runs in a Windows guest: files, certificates, facts, programs, logs, Driver Verifier.'
    PowerShellVersion = '5.1'
    CmdletsToExport   = @()
    VariablesToExport = @()
    AliasesToExport   = @()
    FunctionsToExport = @(
        'Complete-NtproofFile'
        'Enable-NtproofProcessAuditing'
        'Export-NtproofAuditEvent'
        'Get-NtproofAuditMark'
        'Get-NtproofCrashDump'
        'Get-NtproofFileState'
        'Get-NtproofGuestInfo'
        'Get-NtproofMachineFact'
        'Install-NtproofCertificate'
        'Invoke-NtproofProgram'
        'New-NtproofDirectory'
        'Read-NtproofFileChunk'
        'Receive-NtproofAgentLine'
        'Request-NtproofAgentLine'
        'Restart-NtproofMachine'
        'Send-NtproofAgentLine'
        'Set-NtproofLowResources'
        'Set-NtproofVerifier'
        'Start-NtproofAgent'
        'Stop-NtproofAgent'
        'Write-NtproofFileChunk'
    )
}
