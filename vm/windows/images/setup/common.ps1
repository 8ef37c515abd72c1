# What the steps of the set-up share: reports to the host, checked calls of programs, waiting, and registry values.

function Open-Report {
    <#
    .SYNOPSIS
    Opens the serial port that carries reports to the host.
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $PortName
    )
    $port = New-Object -TypeName System.IO.Ports.SerialPort -ArgumentList $PortName, 115200
    # The default is ASCII, which would turn a message in another language into question marks.
    $port.Encoding = New-Object -TypeName System.Text.UTF8Encoding -ArgumentList $false
    $port.NewLine = "`n"
    $port.WriteTimeout = 30000
    $port.Open()
    $port
}

function Send-Report {
    <#
    .SYNOPSIS
    Sends one event to the host, a line of JSON behind a mark that tells it from what firmware and loader print.
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [System.IO.Ports.SerialPort] $Port,

        [Parameter(Mandatory = $true)]
        [hashtable] $Content
    )
    $Port.WriteLine('ntproof ' + (ConvertTo-Json -InputObject $Content -Compress -Depth 6))
}

function Invoke-Program {
    <#
    .SYNOPSIS
    Runs a program of Windows and fails when its exit code is not one that is expected.
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Name,

        [string[]] $Arguments = @(),

        [int[]] $Expected = @(0)
    )
    $path = Join-Path -Path $env:SystemRoot -ChildPath ('System32\' + $Name)
    # What a program writes to its error stream is no error for PowerShell; its exit code decides.
    $ErrorActionPreference = 'Continue'
    $output = & $path @Arguments 2>&1 | Out-String
    if ($Expected -notcontains $LASTEXITCODE) {
        throw ('{0} {1} ended with {2}: {3}' -f $Name, ($Arguments -join ' '), $LASTEXITCODE, $output.Trim())
    }
    $output
}

function Wait-Until {
    <#
    .SYNOPSIS
    Waits until a condition holds, and fails when that takes too long.
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $What,

        [Parameter(Mandatory = $true)]
        [scriptblock] $Condition,

        [int] $Seconds = 600
    )
    $watch = [System.Diagnostics.Stopwatch]::StartNew()
    while (-not (& $Condition)) {
        if ($watch.Elapsed.TotalSeconds -ge $Seconds) {
            throw ('{0}: not so within {1} s' -f $What, $Seconds)
        }
        Start-Sleep -Milliseconds 500
    }
}

function Set-RegistryValue {
    <#
    .SYNOPSIS
    Sets a registry value and makes its key where that is missing.
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Key,

        [Parameter(Mandatory = $true)]
        [string] $Name,

        [Parameter(Mandatory = $true)]
        [object] $Value,

        [ValidateSet('DWord', 'MultiString')]
        [string] $Type = 'DWord'
    )
    if (-not (Test-Path -LiteralPath $Key)) {
        New-Item -Path $Key -Force | Out-Null
    }
    New-ItemProperty -LiteralPath $Key -Name $Name -Value $Value -PropertyType $Type -Force | Out-Null
}

function Get-RegistryValue {
    <#
    .SYNOPSIS
    A registry value, or $null where there is none.
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Key,

        [Parameter(Mandatory = $true)]
        [string] $Name
    )
    if (-not (Test-Path -LiteralPath $Key)) {
        return $null
    }
    $found = Get-ItemProperty -LiteralPath $Key
    # A key without values gives nothing at all.
    if ($null -eq $found -or $found.PSObject.Properties.Name -notcontains $Name) {
        return $null
    }
    $found.PSObject.Properties[$Name].Value
}

function Get-Sha256 {
    <#
    .SYNOPSIS
    The SHA-256 of bytes, in small hexadecimal digits.
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)]
        [byte[]] $Bytes
    )
    $algorithm = [System.Security.Cryptography.SHA256]::Create()
    try {
        [System.BitConverter]::ToString($algorithm.ComputeHash($Bytes)).Replace('-', '').ToLowerInvariant()
    }
    finally {
        $algorithm.Dispose()
    }
}
