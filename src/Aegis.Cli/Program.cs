using Aegis.Cli;

StandardOutput.NoticeWhenClosed();
return await AegisCommand.RunAsync(args, Console.Out, Console.Error);
