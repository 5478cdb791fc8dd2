from components.questions.main import step

step.main()
