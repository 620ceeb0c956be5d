from experiments import rl

rl.main()
