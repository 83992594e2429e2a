"""The words that ray_app/mentions.py knows: how much evidence a name or ticker needs, and what counts as evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


#: tickers that nothing else is called
SURE_TICKERS: Final = _set(
    "BTC ETH XRP BNB USDT USDC SHIB LTC BCH XLM XMR TRX AVAX WBTC STETH XTZ LUNC USTC FTT"
    " HBAR ALGO AAVE XEM QTUM KSM BSV BUSD PYUSD TUSD FDUSD"
)
#: tickers that are written with small letters, too, and are nothing else then
MIXED_TICKERS: Final = _set("stETH wstETH rETH cbETH weETH mETH cbBTC tBTC USDe sUSDe")
#: tickers that are words, and are written in capitals for coins mostly
COMMON_TICKERS: Final = _set(
    "LINK SAND MASK APE MANA ATOM FLOW RUNE BAND COMP MAGIC DASH WAVES ROSE CAKE SUSHI SNX UNI DOT TON ICP OKB NEO LEO"
    " HYPE BONK PEPE TRUMP CRO GALA VET FIL APT ARB ENA INJ JUP PUMP SKY RAY BAT REP ANT REN HIVE CORE NEAR MEME ORCA"
    " DOGE ADA STX UST DRIFT BLAST BLUR AUDIO STORJ FARM SPELL BADGER SUI SEI KAVA DAI MINA CELO OMG IMX ENS FET GRT"
    " LDO CRV"
)
#: tickers that people write in capitals for other reasons, or that are other abbreviations
RARE_TICKERS: Final = _set(
    "ONE GAS FUN NOT ACT TIME SUPER HIGH HOT WIN SUN SAFE WELL MOVE PRIME RED RARE PRO IDEX INDEX INV CVC REQ EDU ALT"
    " ALPHA PORTAL PIXEL MOBILE MATH HONEY MUSE PROMPT DEEP GRASS GOAT DEGEN VIRTUAL TURBO LIT AMP AUCTION ARK ALICE"
    " AURORA CYBER DENT DOGS ELF FORTH FOX GODS GIGA GMT ICX ID KEY MEW MOG POND POWR RAD REEF SAGA SPA SYN USUAL VARA"
    " WOO XAI ZEN BANANA BAL BICO TRU TRAC SPX PERP CAT TAO SAFE IOTA STEEM ORDI SATS WAL STRK SCR TIA ATA COW JOE UMA"
)
NEVER_TICKERS: Final = _set("NFT ATH IP ME AI A S W T G IO ID AR GT SD BB")
#: names that are words or other things, and coins mostly when written with a capital in a text about crypto
COMMON_NAMES: Final = _set(
    "tether stellar avalanche polygon mantle render optimism stacks immutable compound wormhole maker harmony helium"
    " aurora cosmos terra dash golem hive waves nano ontology icon sushi balancer oasis ronin flare gala neo iota pepe"
    " bonk floki morpho conflux sonic jupiter lido ripple curve arkham ondo sui sei dai kusama verge serum"
    " olympus augur aragon scroll celestia moonbeam moonriver injective theta ankr amp blur uma dia turbo brett maple"
    " venus orca osmosis goldfinch pangolin synapse stargate across saga manta kaia nexo mantra flow"
)
#: names that are too common: only with a ticker, or with "token", "protocol" and the like
RARE_NAMES: Final = _set(
    "gas near just core time status request civic treasure badger enzyme bounce spell blast degen drift safe tensor"
    " marinade stella linear reef dent cyber portal pixels movement usual grass walrus wonderland dogs memecoin band"
    " sky story gate quant threshold huobi ftx kucoin gravity highstreet mobile prime a s w math ren holo hydro nem me"
    " gmt red peanut metis velo propy popcat toshi ark ordi meme snek wayfinder orion woo mx kava astar frax joe lfj"
    " xai b3 lcx serum ids space layer3 parcl forta audius celo mog"
)
RARE_PHRASES: Final = frozenset(
    ("big time", "open campus", "baby doge", "the graph", "the sandbox", "adventure gold", "space id", "binance usd")
)
#: common names that mean the coin wherever a word about crypto is near, at the beginning of a title, too
COINED_NAMES: Final = _set("pepe bonk floki sui sei tether ondo morpho lido kusama celestia moonbeam arkham kaia")
#: written in lower case, too
ANY_CASE: Final = _set(
    "bitcoin ethereum ether solana cardano dogecoin litecoin polkadot chainlink monero zcash filecoin toncoin worldcoin"
    " uniswap stablecoin tezos kaspa apecoin pancakeswap arbitrum ethena"
)
#: other names of a coin, by coin id
ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "ethereum": ("Ether",),
    "ripple": ("Ripple",),
    "binancecoin": ("Binance Coin", "BNB Chain", "BNB Smart Chain"),
    "cosmos": ("Cosmos", "Cosmos Hub"),
    "lido-dao": ("Lido", "Lido Finance", "Lido DAO"),
    "curve-dao-token": ("Curve", "Curve Finance", "Curve DAO"),
    "compound-governance-token": ("Compound Finance", "Compound Labs"),
    "ondo-finance": ("Ondo Finance",),
    "fetch-ai": ("Fetch.ai",),
    "sui": ("Sui Network",),
    "harmony": ("Harmony Bridge", "Harmony Protocol"),
    "matic-network": ("Polygon",),
    "polygon-ecosystem-token": ("Polygon",),
    "the-open-network": ("The Open Network",),
    "terra-luna": ("Terra Classic", "Luna Classic", "Terra Luna Classic"),
    "terrausd": ("TerraUSD", "TerraClassicUSD"),
    "the-sandbox": ("The Sandbox",),
    "hedera-hashgraph": ("Hedera", "Hedera Hashgraph"),
    "basic-attention-token": ("Basic Attention Token",),
    "axie-infinity": ("Axie Infinity",),
    "render-token": ("Render Network",),
    "maker": ("MakerDAO",),
    "shiba-inu": ("Shiba Inu",),
    "flow": ("Flow Blockchain",),
    "yearn-finance": ("Yearn Finance", "yearn.finance"),
    "binance-usd": ("Binance USD",),
    "theta-token": ("Theta Network",),
}
#: what begins like a name and is something else
NOT_NAMES: Final = (
    "bitcoin magazine",
    "bitcoin.com",
    "crypto.com arena",
    "polygon.com",
    "terra nova",
    "near miss",
    "compound interest",
    "eth zurich",
    "eth zürich",
    "bnb paribas",
    "tron ares",
    "tron legacy",
)
#: words that make a text one about crypto
CRYPTO: Final = _set(
    "crypto cryptocurrency cryptocurrencies altcoin altcoins blockchain defi stablecoin stablecoins token tokens web3"
    " onchain dex staking airdrop memecoin memecoins mainnet testnet nft nfts tvl validators rollup rollups coinbase"
    " binance kraken hodl satoshi l2 cryptos altseason metaverse dapp dapps"
)
AFTER_NAME: Final = _set(
    "token tokens coin coins protocol blockchain mainnet testnet cryptocurrency altcoin stablecoin memecoin dao"
)
AFTER_COMMON: Final = _set("network ecosystem defi foundation labs chain holders stakers validators devs") | AFTER_NAME
COIN: Final = _set("coin coins")
AFTER_TICKER: Final = _set("price prices rally holders bulls bears futures options staking whales perps") | AFTER_NAME
#: tickers that funds have in their names
FUNDS: Final = _set("SOL DOGE ADA LINK DOT SUI HYPE BONK APT PENGU TRUMP HBAR")
#: companies on the stock exchange are called that, too: their name beside it proves nothing
SHARES: Final = _set("STX")
#: a word and "price" that are something else
NO_PRICE: Final = _set("GAS TIME FUN ONE SUN ICON")
QUOTES: Final = _set("USD USDT USDC EUR GBP JPY KRW BTC ETH TRY BUSD DAI FDUSD PERP")
MONEY: Final = _set("USDT USDC BUSD DAI FDUSD")
