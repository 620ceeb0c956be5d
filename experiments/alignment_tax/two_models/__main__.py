from experiments.alignment_tax import two_models

two_models.main()
