using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;

namespace Aegis.Tests;

/// <summary>Loopback ports for what the tests start.</summary>
internal static class FreePort
{
    // Below the range from which systems take the local ports of outgoing connections (32768 on Linux, 49152
    // elsewhere): a port stays free while a test has its server down.
    private const int First = 15_000;
    private const int End = 32_000;

    private static readonly ConcurrentDictionary<int, bool> Given = new();

    /// <summary>A port on 127.0.0.1 that nobody listens on. It is given to one caller only.</summary>
    public static int Next()
    {
        while (true)
        {
            var port = Random.Shared.Next(First, End);
            if (Given.TryAdd(port, true) && IsFree(port))
            {
                return port;
            }
        }
    }

    private static bool IsFree(int port)
    {
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            socket.Bind(new IPEndPoint(IPAddress.Loopback, port));
            return true;
        }
        catch (SocketException)
        {
            return false;
        }
    }
}
