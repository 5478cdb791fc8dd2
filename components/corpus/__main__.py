from components.corpus.main import step

step.main()
