using Aegis.Core;
using Dapper;
using Microsoft.Data.Sqlite;

namespace Aegis.Storage;

/// <summary>
/// The ledger in one SQLite file: WAL, synchronous=FULL, one writer. An operating system's lock on a file beside the
/// database keeps a second server out; it is gone with the process, and readers such as a backup need none.
/// </summary>
public sealed partial class SqliteLedgerStore : ILedgerStore
{
    // Before this version a checkpoint of the WAL could corrupt the database.
    private static readonly Version SqliteVersionMin = new(3, 51, 3);

    private readonly string _path;
    private readonly bool _isTemporary;
    private readonly string _readConnectionString;
    private readonly string _writeConnectionString;
    private readonly TimeProvider _time;
    private readonly FileStream _serverLock;

    // Held from Begin to the end of the transaction: SQLite has one writer, and this server's wait in line here.
    private readonly SemaphoreSlim _writing = new(1, 1);

    // Of the ledger, kept from one transaction to the next; owned by whoever holds the line above.
    private SqliteWriter? _writer;

    static SqliteLedgerStore() => DefaultTypeMap.MatchNamesWithUnderscores = true;

    private SqliteLedgerStore(string path, bool isTemporary, TimeProvider time)
    {
        _path = path;
        _isTemporary = isTemporary;
        _time = time;
        _serverLock = LockAgainstSecondServer(path);
        _writeConnectionString = new SqliteConnectionStringBuilder
        {
            DataSource = path,
            DefaultTimeout = 5,
        }.ToString();
        _readConnectionString = new SqliteConnectionStringBuilder
        {
            DataSource = path,
            Mode = SqliteOpenMode.ReadOnly,
            DefaultTimeout = 5,
        }.ToString();
    }

    public string Kind => "sqlite";

    public string Location => _path;

    /// <summary>Takes the file; creates its directory. A null path means a temporary file.</summary>
    /// <exception cref="StoreException">Another server has it, or it cannot be opened.</exception>
    public static SqliteLedgerStore Open(string? path, TimeProvider time)
    {
        var isTemporary = path is null;
        path = Path.GetFullPath(path ?? Path.Combine(Directory.CreateTempSubdirectory("aegis-").FullName, "aegis.db"));
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            return new SqliteLedgerStore(path, isTemporary, time);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException)
        {
            throw new StoreException(StoreFailure.Unusable, $"Cannot open the database {path}: {e.Message}", e);
        }
    }

    public async Task MigrateAsync(CancellationToken cancellationToken)
    {
        await _writing.WaitAsync(cancellationToken);
        try
        {
            using var connection = OpenForWriting();
            var version = connection.ExecuteScalar<string>("SELECT sqlite_version()")!;
            if (Version.Parse(version) < SqliteVersionMin)
            {
                throw new StoreException(StoreFailure.Unusable,
                    $"SQLite {version} is too old: {SqliteVersionMin} or later is needed.");
            }
            // Texts are verified as the bytes they are, and those of another encoding are not.
            if (connection.ExecuteScalar<string>("PRAGMA encoding") is var encoding && encoding != "UTF-8")
            {
                throw new StoreException(StoreFailure.Unusable,
                    $"The database {_path} keeps its texts in {encoding}: only UTF-8, which SQLite takes by itself, can be used.");
            }
            if (!IsMigrated(connection))
                Migrator.Run(DbUp.DeployChanges.To.SqliteDatabase(_writeConnectionString), "Sqlite");
        }
        catch (SqliteException e)
        {
            throw new StoreException(StoreFailure.Unusable, $"Cannot use the database {_path}: {e.Message}", e);
        }
        finally
        {
            _writing.Release();
        }
    }

    private static bool IsMigrated(SqliteConnection connection) =>
        connection.ExecuteScalar<bool>("SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'SchemaVersions')")
        && Migrator.IsDone(connection.Query<string>("SELECT ScriptName FROM SchemaVersions"), "Sqlite");

    public Task<StoreProbe> ProbeAsync(CancellationToken cancellationToken) => ReadAsync(connection =>
    {
        var isWritable = !File.GetAttributes(_path).HasFlag(FileAttributes.ReadOnly);
        return new StoreProbe(isWritable, ReadHead(connection), Now());
    });

    public ValueTask DisposeAsync()
    {
        // The readers first: the last connection to close takes the WAL back into the file, and a reader cannot.
        _writer?.Dispose();
        foreach (var connectionString in new[] { _readConnectionString, _writeConnectionString })
        {
            using var connection = new SqliteConnection(connectionString);
            SqliteConnection.ClearPool(connection);
        }
        _writing.Dispose();
        _serverLock.Dispose();
        if (_isTemporary)
            Directory.Delete(Path.GetDirectoryName(_path)!, recursive: true);
        return ValueTask.CompletedTask;
    }

    private long Now() => (_time.GetUtcNow().UtcDateTime - DateTime.UnixEpoch).Ticks / TimeSpan.TicksPerMicrosecond;

    private SqliteConnection OpenForWriting()
    {
        var connection = new SqliteConnection(_writeConnectionString);
        try
        {
            connection.Open();
            connection.Execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;");
            return connection;
        }
        catch
        {
            connection.Dispose();
            throw;
        }
    }

    private Task<T> ReadAsync<T>(Func<SqliteConnection, T> read)
    {
        try
        {
            using var connection = new SqliteConnection(_readConnectionString);
            connection.Open();
            return Task.FromResult(read(connection));
        }
        catch (SqliteException e)
        {
            return Task.FromException<T>(Classify(e));
        }
    }

    private static FileStream LockAgainstSecondServer(string path)
    {
        try
        {
            return new FileStream(path + ".lock", FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (IOException e) when (e.GetType() == typeof(IOException) && File.Exists(path + ".lock"))
        {
            throw new StoreException(StoreFailure.Unusable,
                $"The database {path} is in use by another server; a SQLite file serves one.", e);
        }
    }

    /// <summary>Before a commit was tried nothing can have been stored.</summary>
    private static StoreException Classify(SqliteException e) => e.SqliteErrorCode switch
    {
        SQLitePCL.raw.SQLITE_FULL => new StoreException(StoreFailure.Full, "The disk of the database is full.", e),
        SQLitePCL.raw.SQLITE_CONSTRAINT or SQLitePCL.raw.SQLITE_TOOBIG or SQLitePCL.raw.SQLITE_MISMATCH
            or SQLitePCL.raw.SQLITE_RANGE => new StoreException(StoreFailure.Rejected, "SQLite refused a value.", e),
        SQLitePCL.raw.SQLITE_CORRUPT or SQLitePCL.raw.SQLITE_NOTADB =>
            new StoreException(StoreFailure.Damaged, $"SQLite reports damage: {e.Message}.", e),
        _ => new StoreException(StoreFailure.Unavailable, "The SQLite database cannot be used.", e),
    };
}
