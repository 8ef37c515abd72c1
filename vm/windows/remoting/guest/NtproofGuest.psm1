# The commands that ntproof runs in a Windows guest. commands.toml describes each of them: parameters, results, errors.
#
# House rules, held by tests: Windows PowerShell 5.1 and what a fresh Windows has; advanced functions only; no value ever
# becomes part of a script, a query or a command line except as data; times are 100 ns units or ISO 8601; an error's
# identifier is NtproofWin32.<code>.<call> or NtproofFailure.<name>.

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'

$script:SchemaVersion = 1
$script:Files = @('NtproofGuest.psd1', 'NtproofGuest.psm1', 'NtproofNative.cs')
$script:CrashControlKey = 'SYSTEM\CurrentControlSet\Control\CrashControl'
$script:MemoryManagementKey = 'SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management'
$script:Agents = @{}

function Get-NtproofDigest {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [AllowEmptyCollection()]
        [byte[]] $Data
    )
    $algorithm = [System.Security.Cryptography.SHA256]::Create()
    try {
        [System.BitConverter]::ToString($algorithm.ComputeHash($Data)).Replace('-', '').ToLowerInvariant()
    }
    finally {
        $algorithm.Dispose()
    }
}

function Import-NtproofNative {
    [CmdletBinding()]
    param()
    # The compiler takes a second; its result is kept beside the source, under a name that follows the source.
    $source = Join-Path -Path $PSScriptRoot -ChildPath 'NtproofNative.cs'
    $digest = Get-NtproofDigest -Data ([System.IO.File]::ReadAllBytes($source))
    $name = 'NtproofNative.' + $digest.Substring(0, 16) + '.dll'
    $assembly = Join-Path -Path $PSScriptRoot -ChildPath $name
    if (-not [System.IO.File]::Exists($assembly)) {
        # In a folder of its own, since an assembly is called by the name of the file that it was compiled to.
        $folder = Join-Path -Path $PSScriptRoot -ChildPath ([System.Guid]::NewGuid().ToString())
        [void] [System.IO.Directory]::CreateDirectory($folder)
        try {
            $made = Join-Path -Path $folder -ChildPath $name
            Add-Type -Path $source -OutputAssembly $made -OutputType Library -IgnoreWarnings
            try {
                [System.IO.File]::Move($made, $assembly)
            }
            catch [System.IO.IOException] {
                # Another session was faster; nothing else keeps a file from its name.
                if (-not [System.IO.File]::Exists($assembly)) {
                    throw
                }
            }
        }
        finally {
            try {
                [System.IO.Directory]::Delete($folder, $true)
            }
            catch [System.IO.IOException], [System.UnauthorizedAccessException] {
                # A virus scanner still reads it; it stays and does no harm.
            }
        }
    }
    Add-Type -Path $assembly
}

Import-NtproofNative

function New-NtproofErrorRecord {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $ErrorId,
        [Parameter(Mandatory = $true)]
        [System.Exception] $Exception
    )
    New-Object -TypeName System.Management.Automation.ErrorRecord -ArgumentList @(
        $Exception, $ErrorId, [System.Management.Automation.ErrorCategory]::NotSpecified, $null)
}

function New-NtproofWin32Record {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [uint32] $Code,
        [Parameter(Mandatory = $true)]
        [string] $Call
    )
    $signed = [System.BitConverter]::ToInt32([System.BitConverter]::GetBytes($Code), 0)
    $exception = New-Object -TypeName System.ComponentModel.Win32Exception -ArgumentList $signed
    New-NtproofErrorRecord -ErrorId ('NtproofWin32.' + $Code + '.' + $Call) -Exception $exception
}

function New-NtproofFailureRecord {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Name,
        [Parameter(Mandatory = $true)]
        [string] $Message
    )
    $exception = New-Object -TypeName System.InvalidOperationException -ArgumentList $Message
    New-NtproofErrorRecord -ErrorId ('NtproofFailure.' + $Name) -Exception $exception
}

function ConvertTo-NtproofIoRecord {
    # .NET reports a failed file call as an exception whose HRESULT holds the Win32 error (FACILITY_WIN32).
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [System.Management.Automation.ErrorRecord] $ErrorRecord,
        [Parameter(Mandatory = $true)]
        [string] $Call
    )
    $exception = $ErrorRecord.Exception
    while ($null -ne $exception.InnerException) {
        $exception = $exception.InnerException
    }
    $number = [System.BitConverter]::ToUInt32([System.BitConverter]::GetBytes([int] $exception.HResult), 0)
    if ($exception -is [System.UnauthorizedAccessException]) {
        return New-NtproofWin32Record -Code 5 -Call $Call
    }
    if (($number -shr 16) -eq 0x8007) {
        return New-NtproofWin32Record -Code ($number -band 0xFFFF) -Call $Call
    }
    if ($exception -is [System.ArgumentException] -or $exception -is [System.NotSupportedException]) {
        return New-NtproofWin32Record -Code 123 -Call $Call
    }
    $ErrorRecord
}

function Assert-NtproofOutcome {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [Ntproof.Outcome] $Outcome,
        [Parameter(Mandatory = $true)]
        [System.Management.Automation.PSCmdlet] $Cmdlet
    )
    if ($Outcome.Error -ne 0) {
        $Cmdlet.ThrowTerminatingError((New-NtproofWin32Record -Code $Outcome.Error -Call $Outcome.Call))
    }
}

function Get-NtproofBootId {
    [CmdletBinding()]
    param()
    # A volatile key lives exactly as long as the system runs, whatever its clock does meanwhile.
    $writable = [Microsoft.Win32.RegistryKeyPermissionCheck]::ReadWriteSubTree
    $volatile = [Microsoft.Win32.RegistryOptions]::Volatile
    $key = [Microsoft.Win32.Registry]::LocalMachine.CreateSubKey('SOFTWARE\NtproofBoot', $writable, $volatile)
    try {
        $identity = $key.GetValue('BootId')
        if ($null -eq $identity) {
            $identity = [System.Guid]::NewGuid().ToString()
            $key.SetValue('BootId', $identity, [Microsoft.Win32.RegistryValueKind]::String)
        }
        [string] $identity
    }
    finally {
        $key.Dispose()
    }
}

function Get-NtproofRegistryValue {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Key,
        [Parameter(Mandatory = $true)]
        [string] $Name
    )
    $opened = [Microsoft.Win32.Registry]::LocalMachine.OpenSubKey($Key)
    if ($null -eq $opened) {
        return
    }
    try {
        $opened.GetValue($Name)
    }
    finally {
        $opened.Dispose()
    }
}

function ConvertTo-NtproofUInt32 {
    # The registry gives a DWORD as a signed number.
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [AllowNull()]
        [object] $Value
    )
    if ($null -eq $Value) {
        return [uint32] 0
    }
    [System.BitConverter]::ToUInt32([System.BitConverter]::GetBytes([int] $Value), 0)
}

function Get-NtproofGuestInfo {
    [CmdletBinding()]
    param()
    $content = New-Object -TypeName System.IO.MemoryStream
    foreach ($file in $script:Files) {
        $bytes = [System.IO.File]::ReadAllBytes((Join-Path -Path $PSScriptRoot -ChildPath $file))
        $content.Write($bytes, 0, $bytes.Length)
    }
    [PSCustomObject] @{
        SchemaVersion     = [int] $script:SchemaVersion
        ModuleSha256      = Get-NtproofDigest -Data $content.ToArray()
        PowerShellVersion = $PSVersionTable.PSVersion.ToString()
        ProcessId         = [uint32] [System.Diagnostics.Process]::GetCurrentProcess().Id
        BootId            = Get-NtproofBootId
        SystemTime        = [long] [System.DateTime]::UtcNow.ToFileTimeUtc()
    }
}

function Get-NtproofMachineFact {
    [CmdletBinding()]
    param()
    $integrity = [Ntproof.Machine]::CodeIntegrity()
    Assert-NtproofOutcome -Outcome $integrity -Cmdlet $PSCmdlet
    $system = Get-CimInstance -ClassName Win32_OperatingSystem
    $guard = Get-CimInstance -Namespace 'root\Microsoft\Windows\DeviceGuard' -ClassName Win32_DeviceGuard `
        -ErrorAction SilentlyContinue
    $version = 'SOFTWARE\Microsoft\Windows NT\CurrentVersion'
    $secureBoot = Get-NtproofRegistryValue -Key 'SYSTEM\CurrentControlSet\Control\SecureBoot\State' `
        -Name 'UEFISecureBootEnabled'
    $verified = [string] (Get-NtproofRegistryValue -Key $script:MemoryManagementKey -Name 'VerifyDrivers')
    $flags = Get-NtproofRegistryValue -Key $script:MemoryManagementKey -Name 'VerifyDriverLevel'
    $sysmon = @(Get-Service -Name 'Sysmon', 'Sysmon64' -ErrorAction SilentlyContinue |
            Where-Object { $_.Status -eq 'Running' })
    [PSCustomObject] @{
        ComputerName         = [System.Environment]::MachineName
        Caption              = [string] $system.Caption
        Edition              = [string] (Get-NtproofRegistryValue -Key $version -Name 'EditionID')
        DisplayVersion       = [string] (Get-NtproofRegistryValue -Key $version -Name 'DisplayVersion')
        Build                = [uint32] $system.BuildNumber
        Revision             = ConvertTo-NtproofUInt32 -Value (Get-NtproofRegistryValue -Key $version -Name 'UBR')
        Architecture         = [string] $env:PROCESSOR_ARCHITECTURE
        # CODEINTEGRITY_OPTION_ENABLED, _TESTSIGN and _DEBUGMODE_ENABLED of winternl.h.
        CodeIntegrity        = [bool] ($integrity.Value -band 0x01)
        TestSigning          = [bool] ($integrity.Value -band 0x02)
        KernelDebugger       = [bool] ($integrity.Value -band 0x80)
        SecureBoot           = $(if ($null -eq $secureBoot) { $null } else { [bool] $secureBoot })
        # SecurityServicesRunning of Win32_DeviceGuard: 2 is hypervisor-enforced code integrity.
        MemoryIntegrity      = [bool] ($null -ne $guard -and $guard.SecurityServicesRunning -contains 2)
        CodeIntegrityOptions = [uint32] $integrity.Value
        VerifierFlags        = ConvertTo-NtproofUInt32 -Value $flags
        VerifierDrivers      = [string[]] @($verified.Split(' ') | Where-Object { $_ })
        SysmonRunning        = [bool] ($sysmon.Count -gt 0)
        BootId               = Get-NtproofBootId
    }
}

function Open-NtproofStore {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Name
    )
    $location = [System.Security.Cryptography.X509Certificates.StoreLocation]::LocalMachine
    $store = New-Object -TypeName System.Security.Cryptography.X509Certificates.X509Store -ArgumentList $Name, $location
    $store.Open([System.Security.Cryptography.X509Certificates.OpenFlags]::ReadWrite)
    $store
}

function Install-NtproofCertificate {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [byte[]] $Certificate,
        [Parameter(Mandatory = $true)]
        [ValidateSet('Root', 'TrustedPublisher')]
        [string] $Store
    )
    $read = New-Object -TypeName System.Security.Cryptography.X509Certificates.X509Certificate2
    try {
        $read.Import($Certificate)
    }
    catch [System.Security.Cryptography.CryptographicException] {
        $PSCmdlet.ThrowTerminatingError(
            (New-NtproofFailureRecord -Name 'BadCertificate' -Message $_.Exception.Message))
    }
    $added = $false
    $opened = Open-NtproofStore -Name $Store
    try {
        # X509Certificate.Equals, by which Contains compares, looks at issuer and serial number only.
        $byThumbprint = [System.Security.Cryptography.X509Certificates.X509FindType]::FindByThumbprint
        if ($opened.Certificates.Find($byThumbprint, $read.Thumbprint, $false).Count -eq 0) {
            $opened.Add($read)
            $added = $true
        }
    }
    finally {
        $opened.Close()
    }
    [PSCustomObject] @{
        Thumbprint = [string] $read.Thumbprint
        Subject    = [string] $read.Subject
        NotAfter   = $read.NotAfter.ToUniversalTime().ToString('o')
        Added      = [bool] $added
    }
}

function Get-NtproofFileState {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string[]] $Path
    )
    foreach ($item in $Path) {
        $exists = [System.IO.File]::Exists($item)
        $length = 0
        $digest = $null
        if ($exists) {
            try {
                $stream = [System.IO.File]::OpenRead($item)
                try {
                    $length = $stream.Length
                    $algorithm = [System.Security.Cryptography.SHA256]::Create()
                    $bytes = $algorithm.ComputeHash($stream)
                    $digest = [System.BitConverter]::ToString($bytes).Replace('-', '').ToLowerInvariant()
                }
                finally {
                    $stream.Dispose()
                }
            }
            catch {
                $PSCmdlet.ThrowTerminatingError((ConvertTo-NtproofIoRecord -ErrorRecord $_ -Call 'CreateFileW'))
            }
        }
        [PSCustomObject] @{
            Path   = [string] $item
            Exists = [bool] $exists
            Length = [long] $length
            Sha256 = $digest
        }
    }
}

function Write-NtproofFileChunk {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Path,
        [Parameter(Mandatory = $true)]
        [ValidateRange(0, [long]::MaxValue)]
        [long] $Offset,
        [Parameter(Mandatory = $true)]
        [AllowEmptyCollection()]
        [byte[]] $Data
    )
    try {
        $mode = [System.IO.FileMode]::Open
        if ($Offset -eq 0) {
            [void] [System.IO.Directory]::CreateDirectory([System.IO.Path]::GetDirectoryName($Path))
            $mode = [System.IO.FileMode]::Create
        }
        $stream = New-Object -TypeName System.IO.FileStream -ArgumentList $Path, $mode, ([System.IO.FileAccess]::Write)
        try {
            # Bytes past the end would leave a hole that nobody sent.
            $beyond = $Offset -gt $stream.Length
            if (-not $beyond) {
                $stream.Position = $Offset
                $stream.Write($Data, 0, $Data.Length)
            }
            $length = $stream.Length
        }
        finally {
            $stream.Dispose()
        }
    }
    catch {
        $PSCmdlet.ThrowTerminatingError((ConvertTo-NtproofIoRecord -ErrorRecord $_ -Call 'WriteFile'))
    }
    if ($beyond) {
        $PSCmdlet.ThrowTerminatingError((New-NtproofWin32Record -Code 87 -Call 'WriteFile'))
    }
    [PSCustomObject] @{
        Length = [long] $length
    }
}

function Complete-NtproofFile {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Path,
        [Parameter(Mandatory = $true)]
        [string] $Destination,
        [Parameter(Mandatory = $true)]
        [string] $Sha256
    )
    $state = Get-NtproofFileState -Path $Path
    if (-not $state.Exists) {
        $PSCmdlet.ThrowTerminatingError((New-NtproofWin32Record -Code 2 -Call 'CreateFileW'))
    }
    if ($state.Sha256 -ne $Sha256) {
        $message = 'the file has SHA-256 ' + $state.Sha256
        $PSCmdlet.ThrowTerminatingError((New-NtproofFailureRecord -Name 'HashMismatch' -Message $message))
    }
    Assert-NtproofOutcome -Outcome ([Ntproof.Machine]::Move($Path, $Destination)) -Cmdlet $PSCmdlet
    [PSCustomObject] @{
        Length = [long] $state.Length
    }
}

function Read-NtproofFileChunk {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Path,
        [Parameter(Mandatory = $true)]
        [ValidateRange(0, [long]::MaxValue)]
        [long] $Offset,
        [Parameter(Mandatory = $true)]
        [ValidateRange(1, 4194304)]
        [int] $Count
    )
    try {
        $stream = [System.IO.File]::OpenRead($Path)
        try {
            $length = $stream.Length
            $wanted = [System.Math]::Min([long] $Count, [long] ($length - $Offset))
            if ($wanted -lt 0) {
                $wanted = 0
            }
            $bytes = New-Object -TypeName 'byte[]' -ArgumentList ([int] $wanted)
            $stream.Position = $Offset
            $got = 0
            while ($got -lt $bytes.Length) {
                $read = $stream.Read($bytes, $got, $bytes.Length - $got)
                if ($read -eq 0) {
                    break
                }
                $got += $read
            }
        }
        finally {
            $stream.Dispose()
        }
    }
    catch {
        $PSCmdlet.ThrowTerminatingError((ConvertTo-NtproofIoRecord -ErrorRecord $_ -Call 'CreateFileW'))
    }
    $data = $null
    if ($got -gt 0) {
        # All but a file that became shorter meanwhile.
        $data = New-Object -TypeName 'byte[]' -ArgumentList $got
        [System.Buffer]::BlockCopy($bytes, 0, $data, 0, $got)
    }
    [PSCustomObject] @{
        Data   = $data
        Length = [long] $length
    }
}

function New-NtproofDirectory {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Path
    )
    try {
        [void] [System.IO.Directory]::CreateDirectory($Path)
    }
    catch {
        $PSCmdlet.ThrowTerminatingError((ConvertTo-NtproofIoRecord -ErrorRecord $_ -Call 'CreateDirectoryW'))
    }
}

function Invoke-NtproofProgram {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Path,
        [string[]] $Argument,
        [byte[]] $InputData
    )
    $program = New-Object -TypeName Ntproof.Agent
    $ended = $false
    try {
        Assert-NtproofOutcome -Outcome $program.Start($Path, $Argument) -Cmdlet $PSCmdlet
        if ($null -ne $InputData -and $InputData.Length -gt 0) {
            # A program that ends without reading its input tells so by its exit code.
            [void] $program.Send($InputData)
        }
        $program.CloseInput()
        $sequence = [long] 0
        while (-not $ended) {
            foreach ($batch in $program.After($sequence, 500)) {
                $sequence = $batch.Last
                $ended = $null -ne $batch.ExitCode
                [PSCustomObject] @{
                    Sequence  = [long] $batch.Sequence
                    Count     = [int] $batch.Count
                    Stream    = [string] $batch.Stream
                    Text      = [string] $batch.Text
                    ProcessId = [uint32] $batch.ProcessId
                    ExitCode  = $batch.ExitCode
                }
            }
        }
    }
    finally {
        # Also runs when the pipeline is stopped: the program must not outlive it.
        if (-not $ended) {
            $program.Kill()
        }
        $program.Dispose()
    }
}

function Start-NtproofAgent {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Path,
        [string[]] $Argument
    )
    $program = New-Object -TypeName Ntproof.Agent
    $outcome = $program.Start($Path, $Argument)
    if ($outcome.Error -ne 0) {
        $program.Dispose()
    }
    Assert-NtproofOutcome -Outcome $outcome -Cmdlet $PSCmdlet
    $identity = [System.Guid]::NewGuid().ToString()
    $script:Agents[$identity] = $program
    [PSCustomObject] @{
        AgentId   = [string] $identity
        ProcessId = [uint32] $program.Id
    }
}

function Get-NtproofAgent {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $AgentId,
        [Parameter(Mandatory = $true)]
        [System.Management.Automation.PSCmdlet] $Cmdlet
    )
    if (-not $script:Agents.ContainsKey($AgentId)) {
        $message = 'there is no agent ' + $AgentId + ' in this session'
        $Cmdlet.ThrowTerminatingError((New-NtproofFailureRecord -Name 'NoAgent' -Message $message))
    }
    $script:Agents[$AgentId]
}

function Send-NtproofAgentLine {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $AgentId,
        [Parameter(Mandatory = $true)]
        [AllowEmptyString()]
        [string] $Line
    )
    $program = Get-NtproofAgent -AgentId $AgentId -Cmdlet $PSCmdlet
    Assert-NtproofOutcome -Outcome $program.SendLine($Line) -Cmdlet $PSCmdlet
}

function Receive-NtproofAgentLine {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $AgentId,
        [Parameter(Mandatory = $true)]
        [ValidateRange(0, [long]::MaxValue)]
        [long] $After,
        [Parameter(Mandatory = $true)]
        [ValidateRange(0, 60000)]
        [int] $WaitMilliseconds
    )
    $program = Get-NtproofAgent -AgentId $AgentId -Cmdlet $PSCmdlet
    foreach ($batch in $program.After($After, $WaitMilliseconds)) {
        [PSCustomObject] @{
            Sequence  = [long] $batch.Sequence
            Count     = [int] $batch.Count
            Stream    = [string] $batch.Stream
            Text      = [string] $batch.Text
            ProcessId = [uint32] $batch.ProcessId
            ExitCode  = $batch.ExitCode
        }
    }
}

function Request-NtproofAgentLine {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $AgentId,
        [Parameter(Mandatory = $true)]
        [AllowEmptyString()]
        [string] $Line,
        [Parameter(Mandatory = $true)]
        [ValidateRange(0, [long]::MaxValue)]
        [long] $After,
        [Parameter(Mandatory = $true)]
        [ValidateRange(0, 60000)]
        [int] $WaitMilliseconds
    )
    $program = Get-NtproofAgent -AgentId $AgentId -Cmdlet $PSCmdlet
    Assert-NtproofOutcome -Outcome $program.SendLine($Line) -Cmdlet $PSCmdlet
    foreach ($batch in $program.After($After, $WaitMilliseconds)) {
        [PSCustomObject] @{
            Sequence  = [long] $batch.Sequence
            Count     = [int] $batch.Count
            Stream    = [string] $batch.Stream
            Text      = [string] $batch.Text
            ProcessId = [uint32] $batch.ProcessId
            ExitCode  = $batch.ExitCode
        }
    }
}

function Stop-NtproofAgent {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $AgentId,
        [Parameter(Mandatory = $true)]
        [ValidateRange(0, 60000)]
        [int] $WaitMilliseconds
    )
    $exitCode = $null
    $killed = $false
    if ($script:Agents.ContainsKey($AgentId)) {
        $program = $script:Agents[$AgentId]
        $exitCode = $program.Stop($WaitMilliseconds)
        $killed = $null -eq $exitCode
        $script:Agents.Remove($AgentId)
        $program.Dispose()
    }
    [PSCustomObject] @{
        ExitCode = $exitCode
        Killed   = [bool] $killed
    }
}

function Invoke-NtproofTool {
    # A program of Windows with arguments that are constants or were validated by the caller.
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Name,
        [Parameter(Mandatory = $true)]
        [string[]] $Argument,
        [Parameter(Mandatory = $true)]
        [System.Management.Automation.PSCmdlet] $Cmdlet
    )
    $program = New-Object -TypeName Ntproof.Agent
    try {
        $path = Join-Path -Path ([System.Environment]::SystemDirectory) -ChildPath $Name
        Assert-NtproofOutcome -Outcome $program.Start($path, $Argument) -Cmdlet $Cmdlet
        $exitCode = $program.Stop(30000)
        $said = (@($program.After(0, 1000)) | Where-Object { $_.Text } | ForEach-Object { $_.Text }) -join ' '
    }
    finally {
        $program.Dispose()
    }
    if ($null -eq $exitCode -or $exitCode -ne 0) {
        $message = $Name + ' ended with ' + $exitCode + ': ' + $said
        $Cmdlet.ThrowTerminatingError((New-NtproofFailureRecord -Name 'ToolFailed' -Message $message))
    }
}

function Enable-NtproofProcessAuditing {
    [CmdletBinding()]
    param()
    # Process Creation and Process Termination, by their identifiers: the names depend on the language of Windows.
    foreach ($category in '{0CCE922B-69AE-11D9-BED3-505054503030}', '{0CCE922C-69AE-11D9-BED3-505054503030}') {
        $arguments = @('/set', ('/subcategory:' + $category), '/success:enable')
        Invoke-NtproofTool -Name 'auditpol.exe' -Argument $arguments -Cmdlet $PSCmdlet
    }
    $path = 'SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System\Audit'
    $key = [Microsoft.Win32.Registry]::LocalMachine.CreateSubKey($path)
    try {
        $key.SetValue('ProcessCreationIncludeCmdLine_Enabled', 1, [Microsoft.Win32.RegistryValueKind]::DWord)
    }
    finally {
        $key.Dispose()
    }
}

function Get-NtproofLogQuery {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [ValidateSet('Security', 'Sysmon')]
        [string] $Log,
        [switch] $EveryRecord
    )
    $name = 'Security'
    $filter = '*[System[(EventID=4688 or EventID=4689)]]'
    if ($Log -eq 'Sysmon') {
        $name = 'Microsoft-Windows-Sysmon/Operational'
        $filter = '*[System[(EventID=1 or EventID=5)]]'
    }
    if ($EveryRecord) {
        $filter = '*'
    }
    New-Object -TypeName System.Diagnostics.Eventing.Reader.EventLogQuery -ArgumentList @(
        $name, [System.Diagnostics.Eventing.Reader.PathType]::LogName, $filter)
}

function Open-NtproofLog {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [System.Diagnostics.Eventing.Reader.EventLogQuery] $Query,
        [Parameter(Mandatory = $true)]
        [System.Management.Automation.PSCmdlet] $Cmdlet
    )
    try {
        New-Object -TypeName System.Diagnostics.Eventing.Reader.EventLogReader -ArgumentList $Query
    }
    catch {
        $Cmdlet.ThrowTerminatingError((New-NtproofFailureRecord -Name 'NoLog' -Message $_.Exception.Message))
    }
}

function Get-NtproofAuditMark {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [ValidateSet('Security', 'Sysmon')]
        [string] $Log
    )
    $ends = @([long] 0, [long] 0)
    foreach ($index in 0, 1) {
        $query = Get-NtproofLogQuery -Log $Log -EveryRecord
        $query.ReverseDirection = ($index -eq 0)
        $reader = Open-NtproofLog -Query $query -Cmdlet $PSCmdlet
        try {
            $record = $reader.ReadEvent()
            if ($null -ne $record) {
                $ends[$index] = [long] $record.RecordId
                $record.Dispose()
            }
        }
        finally {
            $reader.Dispose()
        }
    }
    [PSCustomObject] @{
        Newest = [long] $ends[0]
        Oldest = [long] $ends[1]
    }
}

function Export-NtproofAuditEvent {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [ValidateSet('Security', 'Sysmon')]
        [string] $Log,
        [Parameter(Mandatory = $true)]
        [ValidateRange(0, [long]::MaxValue)]
        [long] $After
    )
    # From the newest record back to the mark, so that a long log costs nothing; then in the order of the log.
    # Lone surrogates and noncharacters of a command line are in the XML as they are; no client can read them from PSRP.
    $unsendable = '[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]|[\uFFFE\uFFFF]'
    $replacement = [string] [char] 0xFFFD
    $query = Get-NtproofLogQuery -Log $Log
    $query.ReverseDirection = $true
    $found = New-Object -TypeName 'System.Collections.Generic.Stack[object]'
    $reader = Open-NtproofLog -Query $query -Cmdlet $PSCmdlet
    try {
        while ($null -ne ($record = $reader.ReadEvent())) {
            try {
                if ($record.RecordId -le $After) {
                    break
                }
                $found.Push([PSCustomObject] @{
                        RecordId = [long] $record.RecordId
                        EventId  = [int] $record.Id
                        Xml      = [string] ($record.ToXml() -replace $unsendable, $replacement)
                    })
            }
            finally {
                $record.Dispose()
            }
        }
    }
    finally {
        $reader.Dispose()
    }
    while ($found.Count -gt 0) {
        $found.Pop()
    }
}

function Assert-NtproofDriverName {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Driver,
        [Parameter(Mandatory = $true)]
        [System.Management.Automation.PSCmdlet] $Cmdlet
    )
    if ($Driver -notmatch '\A[A-Za-z0-9_.-]+\.sys\z') {
        $message = 'not the file name of a driver: ' + $Driver
        $Cmdlet.ThrowTerminatingError((New-NtproofFailureRecord -Name 'ToolFailed' -Message $message))
    }
}

function Set-NtproofVerifier {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Driver,
        [Parameter(Mandatory = $true)]
        [uint32] $Flags,
        [Parameter(Mandatory = $true)]
        [ValidateSet('add', 'remove')]
        [string] $Watch
    )
    Assert-NtproofDriverName -Driver $Driver -Cmdlet $PSCmdlet
    $level = '0x' + $Flags.ToString('x8', [System.Globalization.CultureInfo]::InvariantCulture)
    Invoke-NtproofTool -Name 'verifier.exe' -Argument @('/volatile', '/flags', $level) -Cmdlet $PSCmdlet
    $change = '/adddriver'
    if ($Watch -eq 'remove') {
        $change = '/removedriver'
    }
    Invoke-NtproofTool -Name 'verifier.exe' -Argument @('/volatile', $change, $Driver) -Cmdlet $PSCmdlet
}

function Set-NtproofLowResources {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Driver,
        [Parameter(Mandatory = $true)]
        [ValidateRange(1, 10000)]
        [uint32] $ProbabilityPer10000,
        [string] $PoolTag
    )
    Assert-NtproofDriverName -Driver $Driver -Cmdlet $PSCmdlet
    if ($PoolTag -and $PoolTag -notmatch '\A[!-~]{4}\z') {
        $message = 'a pool tag has four printable characters: ' + $PoolTag
        $PSCmdlet.ThrowTerminatingError((New-NtproofFailureRecord -Name 'ToolFailed' -Message $message))
    }
    $probability = $ProbabilityPer10000.ToString([System.Globalization.CultureInfo]::InvariantCulture)
    # No application, and no minutes after the start of the system during which nothing fails.
    $arguments = @('/volatile', '/faults', $probability, [string] $PoolTag, '', '0')
    Invoke-NtproofTool -Name 'verifier.exe' -Argument $arguments -Cmdlet $PSCmdlet
    Invoke-NtproofTool -Name 'verifier.exe' -Argument @('/volatile', '/adddriver', $Driver) -Cmdlet $PSCmdlet
}

function Get-NtproofCrashDump {
    [CmdletBinding()]
    param()
    $places = foreach ($name in 'DumpFile', 'MinidumpDir') {
        $place = [string] (Get-NtproofRegistryValue -Key $script:CrashControlKey -Name $name)
        [System.Environment]::ExpandEnvironmentVariables($place)
    }
    $files = @()
    if ([System.IO.File]::Exists($places[0])) {
        $files += New-Object -TypeName System.IO.FileInfo -ArgumentList $places[0]
    }
    if ([System.IO.Directory]::Exists($places[1])) {
        $folder = New-Object -TypeName System.IO.DirectoryInfo -ArgumentList $places[1]
        $files += $folder.GetFiles('*.dmp')
    }
    foreach ($file in @($files | Sort-Object -Property LastWriteTimeUtc)) {
        [PSCustomObject] @{
            Path    = [string] $file.FullName
            Length  = [long] $file.Length
            Written = $file.LastWriteTimeUtc.ToString('o')
        }
    }
}

function Restart-NtproofMachine {
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [ValidateRange(0, 600)]
        [uint32] $DelaySeconds
    )
    Assert-NtproofOutcome -Outcome ([Ntproof.Machine]::Restart($DelaySeconds)) -Cmdlet $PSCmdlet
}
