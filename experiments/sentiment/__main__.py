from experiments import sentiment

sentiment.main()
