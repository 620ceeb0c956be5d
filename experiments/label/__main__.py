from experiments import label

label.main()
