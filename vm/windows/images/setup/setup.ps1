# Sets the guest up at its first logon: runs the steps beside it in the order of their names, reports each one to the
# host, and shuts Windows down at the end. A step that fails ends the set-up; the host then takes a picture of the screen.

#Requires -Version 5.1
[CmdletBinding()]
param()

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'

. (Join-Path -Path $PSScriptRoot -ChildPath 'common.ps1')

$dataFile = Join-Path -Path $PSScriptRoot -ChildPath 'data.json'
$data = Get-Content -LiteralPath $dataFile -Raw -Encoding UTF8 | ConvertFrom-Json
$port = Open-Report -PortName $data.result_port
$facts = @{}
$current = 'setup'
try {
    $steps = Get-ChildItem -LiteralPath (Join-Path -Path $PSScriptRoot -ChildPath 'steps') -Filter '*.ps1' |
        Sort-Object -Property Name
    foreach ($step in $steps) {
        $current = $step.BaseName
        Send-Report -Port $port -Content @{ event = 'started'; step = $current }
        $watch = [System.Diagnostics.Stopwatch]::StartNew()
        foreach ($output in @(& $step.FullName -Data $data)) {
            if ($output -is [hashtable]) {
                $facts += $output
            }
        }
        $seconds = [math]::Round($watch.Elapsed.TotalSeconds, 1)
        Send-Report -Port $port -Content @{ event = 'ended'; step = $current; seconds = $seconds }
    }
    Send-Report -Port $port -Content @{ event = 'result'; facts = $facts }
}
catch {
    $failure = $_
    # An error of .NET itself may know no place.
    $where = 'an unknown line'
    if ($null -ne $failure.InvocationInfo -and $failure.InvocationInfo.ScriptName) {
        $script = Split-Path -Path $failure.InvocationInfo.ScriptName -Leaf
        $where = '{0}:{1}' -f $script, $failure.InvocationInfo.ScriptLineNumber
    }
    Send-Report -Port $port -Content @{ event = 'failed'; step = $current; message = [string] $failure; where = $where }
    exit 1
}
finally {
    $port.Close()
}
Stop-Computer -Force
