from experiments import rlaif

rlaif.main()
