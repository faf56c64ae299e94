import pytest, warnings
from pvision.modules import *
@pytest.mark.parametrize("kw",[{"overfit_batches":2}],ids=str)
@pytest.mark.parametrize("kind",["head","residual","dp_sgd"])
@pytest.mark.filterwarnings("ignore")
def test_x(kind,kw,net,statement,clips,fit):
    m=MaskDP(net(0),net(50),statement(),public_epochs=1,projection_dim=6) if kind=="head" else PrivateTraining(net(0),statement(kind),public_epochs=int(kind!="dp_sgd"))
    try: fit(m,clips(),**kw); print("RES",kind,kw,"ok steps",m.privacy_steps)
    except BaseException as e: print("RES",kind,kw,type(e).__name__,str(e)[:150],m.privacy_steps)
