from steps.common.stopping import end_on_sigterm

if __name__ == "__main__":
    end_on_sigterm()

    from steps.cli import main

    main()
