using Aegis.V1;
using Google.Protobuf.Reflection;

namespace Aegis.FaultProxy;

/// <summary>What the proxy was told to do. One instance serves all calls at once.</summary>
internal sealed class Rules
{
    /// <summary>Every method of the contract; their names are unique.</summary>
    private static readonly Dictionary<string, MethodDescriptor> Methods =
        new[]
        {
            WorkflowServiceReflection.Descriptor, RecoveryServiceReflection.Descriptor,
            IntegrityServiceReflection.Descriptor, SystemServiceReflection.Descriptor,
        }
        .SelectMany(file => file.Services).SelectMany(service => service.Methods)
        .ToDictionary(method => method.Name);

    private readonly Lock _lock = new();
    private readonly HashSet<string> _cuts = [];
    private readonly Dictionary<string, TaskCompletionSource> _holds = [];
    private readonly Dictionary<string, List<Flip>> _flips = [];

    /// <summary>Does what a line of standard input says.</summary>
    /// <returns>"ok", or "error: " and what is wrong with the line.</returns>
    public string Obey(string line)
    {
        try
        {
            lock (_lock)
                Do(line.Split(' ', StringSplitOptions.RemoveEmptyEntries));
            return "ok";
        }
        catch (FormatException e)
        {
            return $"error: {e.Message}";
        }
    }

    /// <summary>Whether this reply is to be thrown away and its connection reset; true once for each command.</summary>
    public bool TakeCut(string method)
    {
        lock (_lock)
            return _cuts.Remove(method);
    }

    /// <summary>Done when no rule holds the replies of this method.</summary>
    public async Task WhileHeldAsync(string method, CancellationToken cancellationToken)
    {
        while (Hold(method) is { } hold)
            await hold.Task.WaitAsync(cancellationToken);
    }

    /// <summary>A message as this method's callers are to see it: the same bytes where no rule changes any.</summary>
    /// <param name="frame">The gRPC frame: one byte that says whether it is compressed, four of length, the message.</param>
    public byte[] Altered(string method, byte[] frame, string? encoding)
    {
        Flip[] flips;
        lock (_lock)
            flips = _flips.TryGetValue(method, out var found) ? [.. found] : [];
        return flips.Length == 0 ? frame : Flip.InFrame(flips, Methods[method].OutputType, frame, encoding);
    }

    private TaskCompletionSource? Hold(string method)
    {
        lock (_lock)
            return _holds.GetValueOrDefault(method);
    }

    private void Do(string[] words)
    {
        switch (words)
        {
            case ["cut-reply", var name]:
                _cuts.Add(MethodOf(name).Name);
                break;
            case ["hold", var name]:
                _holds.TryAdd(MethodOf(name).Name, new(TaskCreationOptions.RunContinuationsAsynchronously));
                break;
            case ["flip", var name, var field, .. var at] when at.Length <= 1:
                var method = MethodOf(name);
                var flip = Flip.Parse(method.OutputType, field, at.Length == 0 ? null : at[0]);
                if (!_flips.TryGetValue(method.Name, out var flips))
                    _flips.Add(method.Name, flips = []);
                flips.Add(flip);
                break;
            case ["forget"]:
                _cuts.Clear();
                _flips.Clear();
                foreach (var hold in _holds.Values)
                    hold.SetResult();
                _holds.Clear();
                break;
            default:
                throw new FormatException(
                    "the commands are: cut-reply METHOD, hold METHOD, flip METHOD FIELD [AT], forget");
        }
    }

    /// <summary>A misspelt name must not make a rule that never applies.</summary>
    private static MethodDescriptor MethodOf(string name) => Methods.TryGetValue(name, out var method) ? method
        : throw new FormatException($"no method of the contract is called {name}");
}
