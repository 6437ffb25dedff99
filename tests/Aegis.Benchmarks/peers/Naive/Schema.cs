namespace Aegis.Benchmarks.Naive;

/// <summary>The tables, as they are embedded.</summary>
internal static class Schema
{
    public static string Read(string name)
    {
        using var reader = new StreamReader(typeof(Schema).Assembly.GetManifestResourceStream(name)!);
        return reader.ReadToEnd();
    }
}
