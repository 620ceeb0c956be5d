from experiments import pivot_translation

pivot_translation.main()
