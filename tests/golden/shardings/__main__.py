from tests.golden.shardings import main

main()
