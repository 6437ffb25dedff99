using System.Text.RegularExpressions;

namespace Aegis.Tests;

/// <summary>
/// C# source taken apart just far enough for the house rules: where its strings are, and how long its members.
/// It expects code that compiles.
/// </summary>
internal sealed partial class CSharpText
{
    private readonly string _source;
    private readonly char[] _code;
    private readonly List<Literal> _literals = [];

    public CSharpText(string source)
    {
        _source = source;
        _code = source.ToCharArray();
        for (var i = 0; i < source.Length;)
        {
            i = Step(i);
        }

        Code = new string(_code);
    }

    /// <summary>The source with comments, directives, strings and characters blanked out; lines stay where they are.</summary>
    public string Code { get; }

    /// <summary>Every string in the source, those inside of others included.</summary>
    public IReadOnlyList<Literal> Literals => _literals;

    public int LineOf(int position) => _source.AsSpan(0, position).Count('\n') + 1;

    /// <summary>Members of types that have parentheses: methods, constructors and operators.</summary>
    public IEnumerable<Member> Methods()
    {
        var (start, parentheses, isAssigned) = (-1, 0, false);
        for (var i = 0; i < Code.Length; i++)
        {
            var c = Code[i];
            if (start < 0 && !char.IsWhiteSpace(c) && c is not '}' and not ';')
            {
                (start, parentheses, isAssigned) = (i, 0, false);
            }

            parentheses += c is '(' or '[' ? 1 : c is ')' or ']' ? -1 : 0;
            isAssigned |= c == '=' && parentheses == 0 && start >= 0 && !Code[start..i].Contains("operator", StringComparison.Ordinal);
            if (c == '{' && parentheses == 0 && TypeHeader().IsMatch(WithoutAttributes(Code[start..i])))
            {
                start = -1; // Its members come next.
            }
            else if (c == '{')
            {
                i = ClosingBrace(i);
                if (!isAssigned && parentheses == 0)
                {
                    foreach (var member in MethodAt(start, i))
                    {
                        yield return member;
                    }

                    start = -1;
                }
            }
            else if (c == ';' && parentheses == 0)
            {
                foreach (var member in MethodAt(start, i))
                {
                    yield return member;
                }

                start = -1;
            }
            else if (c == '}')
            {
                start = -1; // The end of a type.
            }
        }
    }

    private IEnumerable<Member> MethodAt(int start, int end)
    {
        var match = start < 0 ? Match.Empty : MethodHeader().Match(WithoutAttributes(Code[start..end]));
        return match.Success ? [new Member(match.Groups[1].Value, LineOf(start), LineOf(end) - LineOf(start) + 1)] : [];
    }

    private int ClosingBrace(int open)
    {
        for (var (i, depth) = (open, 0); ; i++)
        {
            depth += Code[i] == '{' ? 1 : Code[i] == '}' ? -1 : 0;
            if (depth == 0)
            {
                return i;
            }
        }
    }

    /// <summary>Past the code, comment, directive or literal that begins here.</summary>
    private int Step(int i)
    {
        var token = Token().Match(_source, i);
        if (token.Success)
        {
            return Blank(i, i + token.Length);
        }

        var quote = Quote().Match(_source, i);
        return quote.Success ? StepOverString(i, quote) : i + 1;
    }

    private int StepOverString(int start, Match opening)
    {
        var dollars = opening.Groups[1].Value.Count(c => c == '$');
        var isVerbatim = opening.Groups[1].Value.Contains('@');
        var quotes = isVerbatim || opening.Groups[2].Length < 3 ? 1 : opening.Groups[2].Length;
        var i = opening.Groups[2].Index + quotes;
        while (true)
        {
            if (_source.AsSpan(i).StartsWith(new string('"', quotes)))
            {
                if (!isVerbatim || i + 1 >= _source.Length || _source[i + 1] != '"')
                {
                    break;
                }

                i += 2;
            }
            else if (quotes == 1 && !isVerbatim && _source[i] == '\\')
            {
                i += 2;
            }
            else if (dollars > 0 && _source[i] == '{')
            {
                i = StepOverBraces(i, dollars, quotes == 1);
            }
            else
            {
                i++;
            }
        }

        _literals.Add(new Literal(start, i + quotes, dollars > 0, _source[start..(i + quotes)]));
        return Blank(start, i + quotes);
    }

    /// <summary>Past an interpolation, or past braces that only stand for themselves.</summary>
    private int StepOverBraces(int i, int dollars, bool isDoubledToEscape)
    {
        var run = _source.AsSpan(i).IndexOfAnyExcept('{');
        if (isDoubledToEscape ? run % 2 == 0 : run < dollars)
        {
            return i + run;
        }

        i += run;
        for (var depth = 1; depth > 0;)
        {
            depth += _source[i] == '{' ? 1 : _source[i] == '}' ? -1 : 0;
            i = Step(i);
        }

        return i + (isDoubledToEscape ? 0 : dollars - 1);
    }

    private int Blank(int from, int to)
    {
        for (var i = from; i < to; i++)
        {
            if (_code[i] != '\n')
            {
                _code[i] = ' ';
            }
        }

        return to;
    }

    private static string WithoutAttributes(string header) => Attributes().Replace(header, "");

    [GeneratedRegex(@"\G(//[^\n]*|/\*.*?\*/|(?<=^[ \t]*)#[^\n]*|'(\\.[^']*|[^\\'])')", RegexOptions.Singleline | RegexOptions.Multiline)]
    private static partial Regex Token();

    [GeneratedRegex(@"\G([$@]*)(""+)")]
    private static partial Regex Quote();

    [GeneratedRegex(@"^\s*(\[[^\]]*\]\s*)+")]
    private static partial Regex Attributes();

    [GeneratedRegex(@"^[^(]*\b(class|struct|interface|enum|record|namespace)\s")]
    private static partial Regex TypeHeader();

    [GeneratedRegex(@"^[^={(]*?([\w.]+|operator\s*\S+)\s*(<[^(]*>)?\(")]
    private static partial Regex MethodHeader();

    /// <summary>A string of the source, with its quotes.</summary>
    internal sealed record Literal(int Start, int End, bool IsInterpolated, string Text);

    /// <summary>A member and the lines it takes, its comments not counted.</summary>
    internal sealed record Member(string Name, int Line, int Lines);
}
