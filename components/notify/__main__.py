from components.notify.main import main

main()
