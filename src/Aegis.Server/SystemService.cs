using System.Reflection;
using Aegis.Core;
using Aegis.Storage;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

/// <summary>Tells about the service itself.</summary>
public sealed class SystemService(ILedgerStore store, StoreMonitor monitor, LogSigner signer, Reads reads, ServerOptions options)
    : Pb.SystemService.SystemServiceBase
{
    /// <summary>The feature of a server that lists at replicas: who has to see what they wrote sends min_log_size.</summary>
    public const string ReadReplicas = "read-replicas";

    public static readonly string Version =
        typeof(SystemService).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion
            .Split('+')[0] ?? "0.0.0";

    public override Task<Pb.GetServerInfoResponse> GetServerInfo(
        Pb.GetServerInfoRequest request, ServerCallContext context) =>
        Task.FromResult(new Pb.GetServerInfoResponse
        {
            Version = Version,
            LogId = monitor.LogId,
            Store = store.Kind,
            Features = { reads.HasReplicas ? [ReadReplicas] : Array.Empty<string>() },
            VerifierKeys = { signer.VerifierKey(monitor.LogId).ToString() },
            Limits = new Pb.Limits
            {
                NameBytesMax = Limits.NameBytesMax,
                PrincipalBytesMax = Limits.PrincipalBytesMax,
                RequestIdBytesMax = Limits.RequestIdBytesMax,
                ReasonBytesMax = Limits.ReasonBytesMax,
                MetadataEntriesMax = Limits.MetadataEntriesMax,
                MetadataBytesMax = Limits.MetadataBytesMax,
                SnapshotBytesMax = (uint)options.SnapshotBytesMax,
                PageSizeMax = Limits.PageSizeMax,
                PageSizeDefault = Limits.PageSizeDefault,
                LeasesMax = Limits.LeasesMax,
                LeaseDurationMsMin = (uint)(Limits.LeaseDurationMin / 1000),
                LeaseDurationMsMax = (uint)(Limits.LeaseDurationMax / 1000),
                LeaseDurationMsDefault = (uint)(Limits.LeaseDurationDefault / 1000),
                RequestBytesMax = Limits.RequestBytesMax,
                ResponseBytesMax = Limits.ResponseBytesMax,
            },
        });
}
