using System.CommandLine;
using Aegis.Backup;
using Aegis.Core;
using Command = System.CommandLine.Command;

namespace Aegis.Cli;

/// <summary>Backups: taken beside a server that writes, restored somewhere else, verified, and only then counted.</summary>
internal static class BackupCommand
{
    private const string DatabaseDefault = "sqlite:aegis.db";
    private const string DataDirectoryDefault = ".aegis";

    public static Command Create() => new("backup",
        "Take backups and prove them: each is restored somewhere else, verified from the first record to the signed head, and compared with "
        + "the server's log. Only then it counts, which the health name aegis.backup tells.")
    {
        Take(),
        Prove(),
        List(),
        Prune(),
    };

    private static Command Take()
    {
        var to = new Option<string>("--to")
        {
            Description = "The directory of backups; made if it is not there.",
            HelpName = "DIR",
            Required = true,
        };
        var database = Inputs.Text("--database", "DATABASE", "The server's database, as in AEGIS_DATABASE, which is the default: sqlite:PATH "
            + "(relative to AEGIS_DATA_DIR), or an Npgsql connection string. With a password prefer the variable, which others cannot see.");
        var name = Inputs.Text("--name", "NAME", "The file's name without its end; aegis- and the time by default.");
        var options = new ProofOptions();
        return Session.Define("create", "Take a backup while the server writes (SQLite's online backup, pg_dump) and prove it. Exit code 0 says "
            + "that it is proven and counted.", async session =>
        {
            var source = BackupSource.Of(session.Get(database) ?? GlobalOptions.FromEnvironment("AEGIS_DATABASE") ?? DatabaseDefault,
                GlobalOptions.FromEnvironment("AEGIS_DATA_DIR") ?? DataDirectoryDefault, session.Get(options.Programs));
            return await options.RunOf(session).CreateAsync(source, session.Get(to), session.Get(name));
        }, [to, database, name, .. options.All]);
    }

    private static Command Prove()
    {
        var path = new Argument<string>("BACKUP")
        {
            Description = "A backup that create has made, any archive of pg_dump in its custom format, any copy of a SQLite database; or a data "
                + "directory that pgBackRest has restored for the proof, which is good for nothing else afterwards.",
        };
        var location = Inputs.Text("--location", "TEXT", "Where the backup is kept, as the log will tell; this machine and path by default.");
        var options = new ProofOptions();
        return Session.Define("prove", "Restore a backup somewhere else, verify it, compare it with the server's log, and have it counted.",
            session => options.RunOf(session).ProveAsync(session.Get(path), session.Get(location)), [path, location, .. options.All]);
    }

    private static Command List()
    {
        var directory = Directory();
        return Session.Define("list", "List the backups of a directory, the newest first, and which of them are proven.", session =>
        {
            var path = Path.GetFullPath(session.Get(directory));
            var notes = BackupDirectory.List(path);
            foreach (var note in notes)
                session.Output.Document(global::System.Text.Json.JsonSerializer.Serialize(note, BackupNote.Line));
            session.Output.Table(["backup", "taken", "bytes", "status", "records", "counted as"], notes.Select(note => new[]
            {
                note.File, Time(note.TakenAt), Refusal.Text(note.Bytes), StatusOf(path, note),
                note.Proof is { } proof ? Refusal.Text(proof.Size) : "", note.Proof?.RecordedAs is { } index ? $"record {index}" : "",
            }));
            if (notes.Count == 0)
                session.Output.Notice($"There are no backups in {path}.");
            return Task.FromResult(ExitCode.Success);
        }, directory);
    }

    private static Command Prune()
    {
        var directory = Directory();
        var last = Count("--keep", "How many of the newest proven backups to keep, at least 1.");
        last.Required = true;
        var daily = Count("--daily", "Of how many days, by UTC, to keep the newest proven backup besides; 0 by default.");
        var weekly = Count("--weekly", "Of how many weeks to keep the newest proven backup besides; 0 by default.");
        var dryRun = new Option<bool>("--dry-run") { Description = "Only tell what would be removed." };
        return Session.Define("prune", "Remove backups that are not to be kept. The newest proven one always stays; what is not proven goes once a "
            + "newer one is.", session =>
        {
            if (session.Get(last) is < 1 || session.Get(daily) < 0 || session.Get(weekly) < 0)
                throw new UsageException("--keep must be at least 1, --daily and --weekly at least 0.");
            using var backups = BackupDirectory.Open(session.Get(directory), create: false);
            var isDry = session.Get(dryRun);
            foreach (var note in backups.Superfluous(new Retention(session.Get(last), session.Get(daily), session.Get(weekly))))
            {
                if (!isDry)
                    backups.Remove(note);
                session.Output.Object(new { file = note.File, removed = !isDry });
                session.Output.Line($"{(isDry ? "would remove" : "removed")} {note.File}, taken {Time(note.TakenAt)}");
            }
            return Task.FromResult(ExitCode.Success);
        }, directory, last, daily, weekly, dryRun);
    }

    private static Argument<string> Directory() => new("DIR") { Description = "The directory of backups." };

    private static Option<int> Count(string name, string description) => new(name) { Description = description, HelpName = "N" };

    private static string StatusOf(string directory, BackupNote note) =>
        !File.Exists(Path.Combine(directory, note.File)) ? "MISSING" : note.Proof is null ? "UNPROVEN" : "PROVEN";

    private static string Time(DateTimeOffset time) =>
        time.UtcDateTime.ToString("yyyy-MM-dd HH:mm:ss", global::System.Globalization.CultureInfo.InvariantCulture);

    /// <summary>How a backup is proven, and who has it done.</summary>
    private sealed class ProofOptions
    {
        private readonly Option<string[]> _keys = TrustedKeys.Option("--key", "The log's key, from another place than the backup.");
        private readonly Option<bool> _offline = new("--offline")
        {
            Description = "Ask no server: the backup is not compared with the log as it is now, and not counted.",
        };
        private readonly Option<string?> _scratch = Inputs.Text("--scratch", "DIR",
            "Where the copy is restored for the proof, with as much room as the database takes; the system's temporary directory by default.");
        private readonly Option<string?> _restoreOn = Inputs.Text("--restore-on", "DATABASE",
            "A PostgreSQL server, an Npgsql connection string, on which a database is made for the proof and dropped after it. Without it a server "
            + "is started from the installed programs. Also AEGIS_RESTORE_ON.");
        private readonly Option<string?> _user = Inputs.Text("--user", "NAME", "The superuser of a restored data directory; postgres by default.");
        private readonly Option<string> _actor = new("--actor")
        {
            Description = "Who has it done, as the log will tell; the user who runs it by default.",
            HelpName = "NAME",
            DefaultValueFactory = _ => Environment.UserName,
        };
        private readonly Option<string> _reason = new("--reason")
        {
            Description = "Why, as the log will tell.",
            HelpName = "TEXT",
            DefaultValueFactory = _ => "scheduled backup",
        };

        public ProofOptions()
        {
            _keys.Required = true;
            // An option with a default is never missing.
            _keys.DefaultValueFactory = null;
        }

        /// <summary>Where PostgreSQL's programs are.</summary>
        public Option<string?> Programs { get; } = Inputs.Text("--pg-bin", "DIR",
            "The directory of PostgreSQL's programs; by default those on PATH or in /usr/lib/postgresql/*/bin that fit the database.");

        public Symbol[] All => [_keys, _offline, _scratch, Programs, _restoreOn, _user, _actor, _reason];

        public BackupRun RunOf(Session session) => new(session, TrustedKeys.Of(session.Get(_keys)), session.Get(_offline),
            new RestoreOptions
            {
                Scratch = session.Get(_scratch),
                Programs = session.Get(Programs),
                RestoreOn = session.Get(_restoreOn) ?? GlobalOptions.FromEnvironment("AEGIS_RESTORE_ON"),
                User = session.Get(_user) ?? "postgres",
            }, session.Get(_actor), session.Get(_reason));
    }
}
