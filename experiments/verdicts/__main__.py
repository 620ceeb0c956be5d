from experiments import verdicts

verdicts.main()
