using System.Reflection.Metadata;
using System.Reflection.PortableExecutable;
using System.Text.RegularExpressions;
using System.Xml.Linq;

namespace Aegis.Tests;

/// <summary>The rules of the house that a program can check.</summary>
public sealed partial class TidyTests
{
    private const int FileLinesMax = 500;
    private const int MethodLinesMax = 80;

    [Test]
    public void No_file_of_the_product_is_too_long()
    {
        var found = Product()
            .Select(file => (file, lines: File.ReadLines(Repository.PathOf(file)).Count()))
            .Where(found => found.lines > FileLinesMax);

        Assert.That(found, Is.Empty);
    }

    [Test]
    public void No_method_of_the_product_is_too_long()
    {
        var found =
            from file in Product()
            from method in Read(file).Methods()
            where method.Lines > MethodLinesMax
            select $"{file}:{method.Line} {method.Name}: {method.Lines} lines";

        Assert.That(found, Is.Empty);
    }

    [Test]
    public void Core_refers_to_nothing()
    {
        var references = XDocument.Load(Repository.PathOf("src/Aegis.Core/Aegis.Core.csproj")).Descendants()
            .Where(element => element.Name.LocalName is "PackageReference" or "ProjectReference" or "FrameworkReference" or "Reference");

        Assert.That(references, Is.Empty);
        Assert.That(new Compiled("Aegis.Core").Assemblies, Has.All.StartsWith("System."));
    }

    [Test]
    public void Core_has_no_input_or_output_and_no_clock_task_or_chance()
        => Assert.That(new Compiled("Aegis.Core").Impurities(), Is.Empty);

    [Test]
    public void Evidence_is_checked_without_server_and_store()
        => Assert.That(new Compiled("Aegis.Evidence").Assemblies, Has.None.AnyOf("Aegis.Server", "Aegis.Storage"));

    [Test]
    public void Sql_is_never_put_together()
    {
        var found =
            from file in Repository.Files("src/Aegis.Storage", "*.cs")
            let text = Read(file)
            from literal in text.Literals
            where IsSqlPutTogether(text, literal)
            select $"{file}:{text.LineOf(literal.Start)} {literal.Text}";

        Assert.That(found, Is.Empty);
    }

    [Test]
    public void A_migration_has_the_same_number_in_both_dialects()
    {
        var postgreSql = MigrationNumbers("PostgreSql");

        Assert.That(postgreSql, Is.Not.Empty.And.Unique);
        Assert.That(MigrationNumbers("Sqlite"), Is.EqualTo(postgreSql));
    }

    [Test]
    public void Everything_in_the_contract_has_a_comment()
    {
        var found =
            from file in Repository.Files("protos", "*.proto")
            let lines = File.ReadAllLines(Repository.PathOf(file))
            from uncommented in Uncommented(lines)
            select $"{file}:{uncommented.Line} {uncommented.Text}";

        Assert.That(Repository.Files("protos", "*.proto"), Is.Not.Empty);
        Assert.That(found, Is.Empty);
    }

    [Test]
    public void Nothing_is_left_for_later()
    {
        // Spelt apart, or this file would be found.
        var later = new Regex(@"\b(TO" + @"DO|FIX" + @"ME)\b");
        var found =
            from file in Repository.Files(".", "*")
            where !file.StartsWith("clients", StringComparison.Ordinal)
            from line in File.ReadLines(Repository.PathOf(file)).Index()
            where later.IsMatch(line.Item)
            select $"{file}:{line.Index + 1} {line.Item.Trim()}";

        Assert.That(found, Is.Empty);
    }

    [Test]
    public void No_namespace_hides_the_grpc_library()
    {
        var found = Repository.Files(".", "*.cs").Where(file => HidesGrpc().IsMatch(Read(file).Code));

        Assert.That(found, Is.Empty);
    }

    [Test]
    public void Every_project_is_in_the_solution()
    {
        var solution = File.ReadAllText(Repository.PathOf("Aegis.Grpc.sln"));
        var found = new[] { "src", "tests", "clients/dotnet" }.SelectMany(directory => Repository.Files(directory, "*.csproj"))
            .Where(project => !solution.Contains($"\"{project.Replace('/', '\\')}\"", StringComparison.Ordinal));

        Assert.That(found, Is.Empty);
    }

    [Test]
    public void The_measure_of_methods_knows_where_they_begin_and_end()
    {
        var text = new CSharpText("""""
            namespace Sample;
            [Thing(1)]
            public sealed record Row(int A) : IThing
            {
                private readonly string _brace = "{"; // {
                private static readonly Dictionary<string, int> Map = new() { ["("] = 1 };
                public int Plain { get; init; } = F(1);
                [Test]
                public void Block(char c = '{')
                {
                    var raw = $$"""
                        { {{c switch { '"' => "}", _ => "{" }}} }
                        """;
                    /* } */
                }
                public int Arrow<T>(T record) where T : class
                    => record switch
                    {
                        _ => Plain,
                    } + $"{(c == '}' ? "a" : @"""{")}{{".Length;
                public static bool operator ==(Row a, Row b) { return true; }
                private enum Kind { One, Two }
                public Row() : this(1)
                {
                }
            }
            """"");

        Assert.That(text.Methods().Select(method => (method.Name, method.Line, method.Lines)), Is.EqualTo(new[]
        {
            ("Block", 8, 8), ("Arrow", 16, 5), ("operator ==", 21, 1), ("Row", 23, 3),
        }));
    }

    [TestCase("""var a = "SELECT 1";""", false)]
    [TestCase("""var a = "SELECT 1" + b;""", true)]
    [TestCase("""var a = b + "UPDATE x";""", true)]
    [TestCase("""a += "DELETE FROM x";""", true)]
    [TestCase("""var a = $"INSERT INTO {x}";""", true)]
    [TestCase("""var a = $"The insert into {x} failed.";""", false)]
    [TestCase("""// "SELECT 1" + b""", false)]
    [TestCase("""var a = "selected" + b;""", false)]
    public void Sql_that_is_put_together_is_recognised(string source, bool expected)
    {
        var text = new CSharpText(source);

        Assert.That(text.Literals.Any(literal => IsSqlPutTogether(text, literal)), Is.EqualTo(expected));
    }

    [Test]
    public void Impurities_are_recognised()
    {
        var impurities = new Compiled("Aegis.Tests").Impurities();

        Assert.That(impurities, Is.SupersetOf(new[]
        {
            "System.IO.File", "System.Random", "System.Threading.Tasks.Task", "System.DateTime.get_UtcNow",
        }));
    }

    [TestCase("message A {", "  string b = 1;")]
    [TestCase("  string b = 1;", "  repeated aegis.v1.A c = 2;")]
    [TestCase("  // In a line of its own.", "", "  map<string, string> c = 2 [deprecated = true];")]
    [TestCase("  A_UNSPECIFIED = 0;")]
    [TestCase("  oneof at {")]
    [TestCase("  rpc Get(A) returns (stream B);")]
    [TestCase("service A {")]
    public void A_missing_comment_in_the_contract_is_recognised(params string[] lines)
        => Assert.That(Uncommented(lines).Last().Text, Is.EqualTo(lines[^1].Trim()));

    private static IEnumerable<string> Product() => Repository.Files("src", "*.cs").Concat(Repository.Files("clients/dotnet", "*.cs"));

    private static CSharpText Read(string file) => new(File.ReadAllText(Repository.PathOf(file)));

    private static bool IsSqlPutTogether(CSharpText text, CSharpText.Literal literal)
        => SqlVerb().IsMatch(literal.Text)
            && (literal.IsInterpolated
                || text.Code[..literal.Start].TrimEnd().EndsWith('+') || text.Code[..literal.Start].TrimEnd().EndsWith("+=", StringComparison.Ordinal)
                || text.Code[literal.End..].TrimStart().StartsWith('+'));

    private static List<string> MigrationNumbers(string dialect)
        => Repository.Files($"src/Aegis.Storage/Migrations/{dialect}", "*.sql")
            .Select(file => Path.GetFileName(file).Split('_')[0]).ToList();

    private static IEnumerable<(int Line, string Text)> Uncommented(string[] lines)
        => lines.Index()
            .Where(line => Declaration().IsMatch(line.Item)
                && (line.Index == 0 || !lines[line.Index - 1].TrimStart().StartsWith("//", StringComparison.Ordinal)))
            .Select(line => (line.Index + 1, line.Item.Trim()));

    [GeneratedRegex(@"\b(SELECT|INSERT|UPDATE|DELETE)\b")]
    private static partial Regex SqlVerb();

    [GeneratedRegex(@"\bnamespace\s+Aegis\s*\.\s*Grpc\b")]
    private static partial Regex HidesGrpc();

    // A message, enum, service, rpc or oneof; a field; a value of an enum.
    [GeneratedRegex(@"^\s*((message|enum|service|rpc|oneof)\s+\w+|((repeated|optional)\s+)?(map<[^>]*>|[\w.]+)\s+\w+\s*=\s*\d+|[A-Z][A-Z0-9_]*\s*=\s*-?\d+)")]
    private static partial Regex Declaration();

    /// <summary>What a compiled assembly refers to: no comment and no alias can hide anything there.</summary>
    private sealed class Compiled
    {
        private static readonly string[] ImpureTypes =
        [
            "System.Random", "System.TimeProvider", "System.Environment", "System.Console", "System.Diagnostics.Stopwatch",
            "System.Security.Cryptography.RandomNumberGenerator",
        ];

        private static readonly string[] ImpureMembers =
        [
            "System.DateTime.get_Now", "System.DateTime.get_UtcNow", "System.DateTime.get_Today",
            "System.DateTimeOffset.get_Now", "System.DateTimeOffset.get_UtcNow", "System.Guid.NewGuid", "System.Guid.CreateVersion7",
        ];

        private readonly List<string> _types;
        private readonly List<string> _members;

        public Compiled(string name)
        {
            using var file = new PEReader(File.OpenRead(Path.Combine(AppContext.BaseDirectory, $"{name}.dll")));
            var metadata = file.GetMetadataReader();
            Assemblies = [.. metadata.AssemblyReferences
                .Select(handle => metadata.GetString(metadata.GetAssemblyReference(handle).Name))];
            _types = [.. metadata.TypeReferences.Select(handle => NameOf(metadata, handle))];
            _members =
            [
                .. metadata.MemberReferences.Select(handle => metadata.GetMemberReference(handle))
                    .Where(member => member.Parent.Kind == HandleKind.TypeReference)
                    .Select(member => $"{NameOf(metadata, (TypeReferenceHandle)member.Parent)}.{metadata.GetString(member.Name)}"),
            ];
        }

        public IReadOnlyList<string> Assemblies { get; }

        public IEnumerable<string> Impurities()
            => _types.Where(type => ImpureTypes.Contains(type) || IsImpureNamespace(type)).Concat(_members.Intersect(ImpureMembers));

        private static bool IsImpureNamespace(string type)
            => type.StartsWith("System.Threading.Tasks.", StringComparison.Ordinal)
                || type.StartsWith("System.Net.", StringComparison.Ordinal)
                || (type.StartsWith("System.IO.", StringComparison.Ordinal) && !type.EndsWith("Exception", StringComparison.Ordinal));

        private static string NameOf(MetadataReader metadata, TypeReferenceHandle handle)
        {
            var type = metadata.GetTypeReference(handle);
            return $"{metadata.GetString(type.Namespace)}.{metadata.GetString(type.Name)}";
        }
    }
}
