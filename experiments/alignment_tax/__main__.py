from experiments import alignment_tax

alignment_tax.main()
