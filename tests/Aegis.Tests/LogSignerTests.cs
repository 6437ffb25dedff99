using Aegis.Core;
using Aegis.Server;
using Microsoft.Extensions.Logging.Abstractions;

namespace Aegis.Tests;

/// <summary>What the server takes for signed: what its key has signed, whether it remembers that or not, and nothing else.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class LogSignerTests
{
    private readonly TemporaryDirectory _directory = new("signer");
    private LogSigner _signer = null!;
    private LogSigner _other = null!;

    [OneTimeSetUp]
    public void Load() => (_signer, _other) = (Signer("one"), Signer("other"));

    [OneTimeTearDown]
    public void Dispose()
    {
        _signer.Dispose();
        _other.Dispose();
        _directory.Dispose();
    }

    [Test]
    public void Notes_before_those_that_it_remembers_are_verified_anew()
    {
        // Twice as many as are remembered, and some.
        var heads = Enumerable.Range(1, (2 * Auditor.WindowRecords) + 10).Select(i => Head(i)).ToList();
        var notes = heads.ConvertAll(h => _signer.Sign(h));

        foreach (var i in (int[])[0, 1, Auditor.WindowRecords, heads.Count - 1, 0])
            Assert.That(_signer.Verify(notes[i]), Is.EqualTo(heads[i]));
    }

    [Test]
    public void A_note_that_was_altered_is_none_however_well_the_true_one_is_remembered()
    {
        var note = _signer.Sign(Head(7));
        var foreign = _other.Sign(Head(7));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(_signer.Verify(note), Is.EqualTo(Head(7)));
            Assert.That(_signer.Verify(note.Replace("\n7\n", "\n8\n", StringComparison.Ordinal)), Is.Null);
            Assert.That(_signer.Verify(note[..^8] + "AAAAAA=\n"), Is.Null);
            Assert.That(_signer.Verify(foreign), Is.Null);
            Assert.That(_other.Verify(foreign), Is.EqualTo(Head(7)));
        }
    }

    private LogSigner Signer(string name)
    {
        var options = new ServerOptions { SigningKeyFile = Path.Combine(_directory.Path, $"{name}.pem") };
        var signer = new LogSigner(options, NullLogger<LogSigner>.Instance);
        signer.Load(null);
        return signer;
    }

    private static LogHead Head(int size) => new("aegis.example/log", size, Hash.Of([(byte)size, (byte)(size >> 8)]));
}
