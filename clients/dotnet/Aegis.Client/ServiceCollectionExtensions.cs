using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace Aegis.Client;

/// <summary>Aegis for programs that put their parts together by dependency injection.</summary>
public static class ServiceCollectionExtensions
{
    /// <summary>
    /// Adds one <see cref="AegisClient"/> and one <see cref="DurableWorkflowEngine"/> over it, made when first asked for and
    /// closed with the program. They log through the program's own logging, and keep its <see cref="TimeProvider"/> if it has one.
    /// </summary>
    /// <param name="services">The program's parts.</param>
    /// <param name="configure">How to reach Aegis, and whom to trust.</param>
    /// <param name="register">Registers the types of workflow.</param>
    /// <param name="configureEngine">How the engine works; everything by default when null.</param>
    public static IServiceCollection AddAegisClient(this IServiceCollection services, Action<IServiceProvider, AegisClientOptions> configure,
        Action<DurableWorkflowEngine> register, Action<EngineOptions>? configureEngine = null)
    {
        ArgumentNullException.ThrowIfNull(configure);
        ArgumentNullException.ThrowIfNull(register);
        services.AddSingleton(provider =>
        {
            var options = new AegisClientOptions
            {
                LoggerFactory = provider.GetService<ILoggerFactory>(),
                Time = provider.GetService<TimeProvider>() ?? TimeProvider.System,
            };
            configure(provider, options);
            return new AegisClient(options);
        });
        services.AddSingleton(provider =>
        {
            var options = new EngineOptions();
            configureEngine?.Invoke(options);
            var engine = new DurableWorkflowEngine(provider.GetRequiredService<AegisClient>(), options);
            register(engine);
            return engine;
        });
        return services;
    }
}
