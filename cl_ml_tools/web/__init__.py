"""What every master of ours does with a request and an answer, whatever the route."""
