from components.evaluate.main import step

step.main()
