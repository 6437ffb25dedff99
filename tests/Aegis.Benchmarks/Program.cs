using System.CommandLine;
using Aegis.Benchmarks;

var other = new Argument<FileInfo>("other") { Description = "The Aegis.Server.dll of another build, released, to compare with." };
var callers = new Option<int>("--callers") { DefaultValueFactory = _ => 64, Description = "How many callers at once." };
var rounds = new Option<int>("--rounds") { DefaultValueFactory = _ => 5, Description = "How many rounds; both run in each." };
var seconds = new Option<int>("--seconds") { DefaultValueFactory = _ => 5, Description = "How long each is measured in a round." };
var sqlite = new Option<bool>("--sqlite") { Description = "Over SQLite instead of PostgreSQL." };

var builds = new Command("builds", "Transitions a second of this build beside those of another, over the same database.")
{
    other, callers, rounds, seconds, sqlite,
};
builds.SetAction((result, _) => Builds.RunAsync(result.GetValue(other)!, result.GetValue(callers), result.GetValue(rounds),
    result.GetValue(seconds), result.GetValue(sqlite)));

var records = new Option<long>("--records") { DefaultValueFactory = _ => 1_000_000, Description = "How many records the log has, or goes up to." };
var log = new Command("log", "Proofs and verification over a large log in PostgreSQL.") { records, rounds };
log.SetAction((result, _) => LogOfMany.RunAsync(result.GetValue(records), result.GetValue(rounds)));

var only = new Option<string[]>("--only")
{
    AllowMultipleArgumentsPerToken = true,
    DefaultValueFactory = _ => [],
    Description = "The ids of the rows that are wanted; all without it.",
};
var write = new Option<bool>("--write") { Description = "Write the report to results/, as .md and .json." };
var compare = new Command("compare", "Aegis beside plain PostgreSQL and beside what else could be used, and what it takes by itself.")
{
    rounds, seconds, records, only, write,
};
compare.SetAction((result, _) => Compare.RunAsync(OptionsOf(result, records)));

var gate = new Command("gate", "The few rows that no change may ruin, each against a floor far below its target; fails below it.")
{
    rounds, seconds,
};
gate.SetAction((result, _) => Compare.GateAsync(new RunOptions(
    result.GetValue(rounds), result.GetValue(seconds), Records: 0, Only: [], Write: false)));

var grown = new Option<long>("--records") { DefaultValueFactory = _ => 5_000_000, Description = "How many records the log grows to." };
var growth = new Command("growth", "What a log that grows, long chains, large snapshots and other readers cost.")
{
    rounds, seconds, grown, only, write,
};
growth.SetAction((result, _) => Growth.RunAsync(OptionsOf(result, grown)));

var core = new Command("core", "What Core's hot paths take by themselves, with BenchmarkDotNet.");
core.SetAction(_ => CoreBenchmarks.Run());

var obey = new Command("callers", "The process of the callers, for the other commands.") { Hidden = true };
obey.SetAction((_, _) => Callers.ObeyAsync());

return await new RootCommand("Measures Aegis beside what it is compared with, in one run.") { compare, gate, growth, core, builds, log, obey }
    .Parse(args).InvokeAsync();

RunOptions OptionsOf(ParseResult result, Option<long> records) => new(
    result.GetValue(rounds), result.GetValue(seconds), result.GetValue(records), result.GetValue(only)!, result.GetValue(write));
