from components.retriever.main import main

main()
