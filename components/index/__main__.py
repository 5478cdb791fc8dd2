from components.index.main import step

step.main()
