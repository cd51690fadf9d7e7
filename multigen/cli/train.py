def main(config):
    print(config)
