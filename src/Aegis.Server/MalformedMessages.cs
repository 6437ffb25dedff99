using Aegis.Core;
using Google.Protobuf;
using Grpc.Core;

namespace Aegis.Server;

/// <summary>
/// A message that is not one of the contract, a text that is not UTF-8 among them, fails in the library before any code of
/// ours sees it, as UNKNOWN without a reason. This gives it one. What was read marks the call, so that only calls whose
/// message was never read are touched; of those, nothing has been sent yet.
/// </summary>
internal static class MalformedMessages
{
    private static readonly object WasRead = new();

    public static readonly Refusal Refusal = Core.Refusal.Invalid("request",
        "is not a message of the contract: its bytes cannot be parsed, or a text in it is not UTF-8");

    public static void MarkRead(ServerCallContext context) => context.GetHttpContext().Items[WasRead] = true;

    public static async Task HandleAsync(HttpContext context, RequestDelegate next)
    {
        await next(context);
        var headers = context.Response.Headers;
        if (context.Response.HasStarted || context.Items.ContainsKey(WasRead)
            || headers["grpc-status"] != ((int)StatusCode.Unknown).ToString(System.Globalization.CultureInfo.InvariantCulture))
        {
            return;
        }
        var error = StatusMapping.ToRpcException(Refusal);
        headers["grpc-status"] = ((int)error.StatusCode).ToString(System.Globalization.CultureInfo.InvariantCulture);
        headers["grpc-message"] = Uri.EscapeDataString(error.Status.Detail);
        foreach (var trailer in error.Trailers.Where(t => t.IsBinary))
            headers[trailer.Key] = Convert.ToBase64String(trailer.ValueBytes);
    }
}
