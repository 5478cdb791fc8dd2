from components.register.main import step

step.main()
