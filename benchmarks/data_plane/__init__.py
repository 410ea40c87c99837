"""What the data plane costs and carries, beside the engine alone and beside other gateways."""
