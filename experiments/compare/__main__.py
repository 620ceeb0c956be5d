from experiments import compare

compare.main()
