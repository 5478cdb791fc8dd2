from components.summary.main import step

step.main()
