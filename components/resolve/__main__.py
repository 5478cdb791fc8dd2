from components.resolve.main import main

main()
