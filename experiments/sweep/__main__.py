from experiments import sweep

sweep.main()
