from experiments import stack_exchange

stack_exchange.main()
