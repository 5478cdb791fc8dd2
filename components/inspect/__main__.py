from components.inspect.main import step

step.main()
