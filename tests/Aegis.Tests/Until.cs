using Grpc.Core;
using Grpc.Health.V1;
using static Grpc.Health.V1.HealthCheckResponse.Types;

namespace Aegis.Tests;

/// <summary>Waits for what has to come, and fails when it does not.</summary>
internal static class Until
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    /// <summary>Calls again while the service is away.</summary>
    public static async Task<T> SucceedsAsync<T>(Func<Task<T>> call)
    {
        for (var until = DateTime.UtcNow + Patience; ; await Task.Delay(50))
        {
            try
            {
                return await call();
            }
            catch (RpcException e) when (e.StatusCode == StatusCode.Unavailable && DateTime.UtcNow < until)
            {
                // Still away.
            }
        }
    }

    public static async Task TrueAsync(Func<Task<bool>> condition)
    {
        for (var until = DateTime.UtcNow + Patience; !await condition(); await Task.Delay(20))
            Assert.That(DateTime.UtcNow, Is.LessThan(until), "It does not come true.");
    }

    public static async Task HealthAsync(Health.HealthClient health, string name, bool serving)
    {
        var last = "no answer";
        for (var until = DateTime.UtcNow + Patience; DateTime.UtcNow < until; await Task.Delay(25))
        {
            try
            {
                var status = (await health.CheckAsync(new HealthCheckRequest { Service = name })).Status;
                if (status == (serving ? ServingStatus.Serving : ServingStatus.NotServing))
                    return;
                last = status.ToString();
            }
            catch (RpcException e) when (e.StatusCode == StatusCode.Unavailable)
            {
                last = e.Status.ToString();
            }
        }
        Assert.Fail($"\"{name}\" is not {(serving ? "SERVING" : "NOT_SERVING")}: {last}.");
    }
}
