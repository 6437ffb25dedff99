using Google.Rpc;
using Grpc.Core;
using StatusCode = Grpc.Core.StatusCode;

namespace Aegis.Tests;

/// <summary>What a failed call says, as a caller reads it.</summary>
internal static class ErrorAssert
{
    /// <summary>Asserts that a call is refused for a reason and gives the details.</summary>
    public static async Task<ErrorInfo> RefusedAsync(Func<Task> call, string reason, StatusCode code)
    {
        RpcException? error = null;
        try
        {
            await call();
        }
        catch (RpcException e)
        {
            error = e;
        }
        Assert.That(error, Is.Not.Null, $"The call was not refused; expected {reason}.");
        var info = error!.GetRpcStatus()?.GetDetail<ErrorInfo>();
        using (Assert.EnterMultipleScope())
        {
            Assert.That(info?.Reason, Is.EqualTo(reason), error.Status.ToString());
            Assert.That(error.StatusCode, Is.EqualTo(code));
            Assert.That(info?.Domain, Is.EqualTo("aegis.v1"));
        }
        return info!;
    }

    /// <summary>The fields that a refusal as INVALID_FIELD names.</summary>
    public static async Task<string[]> InvalidFieldsAsync(Func<Task> call)
    {
        string[] fields = [];
        await RefusedAsync(async () =>
        {
            try
            {
                await call();
            }
            catch (RpcException e)
            {
                fields = [.. e.GetRpcStatus()?.GetDetail<BadRequest>()?.FieldViolations.Select(v => v.Field) ?? []];
                throw;
            }
        }, "INVALID_FIELD", StatusCode.InvalidArgument);
        return fields;
    }
}
